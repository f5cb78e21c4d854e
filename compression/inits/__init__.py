"""Inits: where adapters start. One line for each."""

from compression.inits.base import INITS, Init, Start
from compression.inits.eora import EoRA
from compression.inits.eva import EVA
from compression.inits.int2_1 import Int2Point1
from compression.inits.loftq import LoftQ
from compression.inits.loftq_act import LoftQAct
from compression.inits.lora_ga import LoraGA
from compression.inits.lora_sb import LoraSB
from compression.inits.lq_lora import LQLoRA
from compression.inits.lqer import LQER
from compression.inits.orthogonal import Orthogonal
from compression.inits.paper import Paper
from compression.inits.pissa import Pissa
from compression.inits.pmss import PMSS
from compression.inits.residual import Residual
from compression.inits.svdquant import SVDQuant
from compression.inits.zeros import Zeros

__all__ = [
    "EVA",
    "INITS",
    "LQER",
    "PMSS",
    "EoRA",
    "Init",
    "Int2Point1",
    "LQLoRA",
    "LoftQ",
    "LoftQAct",
    "LoraGA",
    "LoraSB",
    "Orthogonal",
    "Paper",
    "Pissa",
    "Residual",
    "SVDQuant",
    "Start",
    "Zeros",
]

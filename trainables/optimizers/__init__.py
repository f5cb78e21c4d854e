"""Optimizers by name. Adding one: a file here and a line below."""

from trainables.optimizers.adafactor import Adafactor
from trainables.optimizers.adam import Adam
from trainables.optimizers.adamw import AdamW
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.flora import Flora
from trainables.optimizers.galore import GaLore
from trainables.optimizers.lion import Lion
from trainables.optimizers.lora_fa import LoraFa
from trainables.optimizers.lora_plus import LoraPlus
from trainables.optimizers.lora_pro import LoraPro
from trainables.optimizers.mars import Mars
from trainables.optimizers.momentum import Momentum
from trainables.optimizers.muon import Muon
from trainables.optimizers.nadam import NAdam
from trainables.optimizers.radam import RAdam
from trainables.optimizers.riemannian import Riemannian
from trainables.optimizers.rmsprop import RmsProp
from trainables.optimizers.schedule_free import ScheduleFree
from trainables.optimizers.sgd import Sgd

__all__ = [
    "OPTIMIZERS",
    "Adafactor",
    "Adam",
    "AdamW",
    "Flora",
    "GaLore",
    "Lion",
    "LoraFa",
    "LoraPlus",
    "LoraPro",
    "Mars",
    "Momentum",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "Riemannian",
    "RmsProp",
    "ScheduleFree",
    "Sgd",
]

"""Inits: where adapters start. One line for each."""

from compression.inits.base import INITS, Init, Start
from compression.inits.loftq import LoftQ
from compression.inits.pissa import Pissa
from compression.inits.residual import Residual
from compression.inits.zeros import Zeros

__all__ = ["INITS", "Init", "LoftQ", "Pissa", "Residual", "Start", "Zeros"]

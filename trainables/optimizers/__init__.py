"""Optimizers by name. Adding one: a file here and a line below."""

from trainables.optimizers.adam import Adam
from trainables.optimizers.adamw import AdamW
from trainables.optimizers.base import OPTIMIZERS, Optimizer
from trainables.optimizers.muon import Muon
from trainables.optimizers.sgd import Sgd

__all__ = ["OPTIMIZERS", "Adam", "AdamW", "Muon", "Optimizer", "Sgd"]

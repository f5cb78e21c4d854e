"""Hooks by name: what acts on a training beside its adapter. Adding one: a file and a line."""

from trainables.hooks.base import HOOKS, Hook, Scene
from trainables.hooks.coto import CoTo
from trainables.hooks.ema import Ema
from trainables.hooks.grad_clip import GradClip
from trainables.hooks.gradual_pruning import GradualPruning
from trainables.hooks.lisa import Lisa
from trainables.hooks.none import NoHook
from trainables.hooks.relora import ReLora
from trainables.hooks.swa import Swa

__all__ = [
    "HOOKS",
    "CoTo",
    "Ema",
    "GradClip",
    "GradualPruning",
    "Hook",
    "Lisa",
    "NoHook",
    "ReLora",
    "Scene",
    "Swa",
]

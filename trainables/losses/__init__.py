"""Losses by name. Adding one: a file here and a line below."""

from trainables.losses.base import LOSSES, Aim, Lessons, Loss, losses_of
from trainables.losses.distillation import Distil
from trainables.losses.label_smoothing import LabelSmoothing
from trainables.losses.task import TaskLoss

__all__ = ["LOSSES", "Aim", "Distil", "LabelSmoothing", "Lessons", "Loss", "TaskLoss", "losses_of"]

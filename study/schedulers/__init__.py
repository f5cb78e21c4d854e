"""Schedulers by name. Adding one: a file here and a line below."""

from study.schedulers.asha import Asha
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing
from study.schedulers.fifo import Fifo

__all__ = ["SCHEDULERS", "Asha", "Budget", "Fifo", "Rungs", "Scheduler", "Standing"]

"""Schedulers by name. Adding one: a file here and a line below."""

from study.schedulers.asha import Asha
from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing
from study.schedulers.fifo import Fifo
from study.schedulers.hyperband import Hyperband
from study.schedulers.median import Median
from study.schedulers.pareto_asha import ParetoAsha

__all__ = [
    "SCHEDULERS",
    "Asha",
    "Budget",
    "Fifo",
    "Hyperband",
    "Median",
    "ParetoAsha",
    "Rungs",
    "Scheduler",
    "Standing",
]

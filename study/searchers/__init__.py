"""Searchers by name. Adding one: a file here and a line below."""

from study.searchers.base import (
    NOTHING,
    PREDICTED,
    PRUNED,
    SEARCHERS,
    Exhausted,
    Learner,
    Searcher,
    Turn,
)
from study.searchers.forest import Forest
from study.searchers.genetic import Nsga2, Nsga3
from study.searchers.gp import Gp
from study.searchers.grid import Grid
from study.searchers.quasi_random import QuasiRandom
from study.searchers.random import Random
from study.searchers.tpe import Tpe

__all__ = [
    "NOTHING",
    "PREDICTED",
    "PRUNED",
    "SEARCHERS",
    "Exhausted",
    "Forest",
    "Gp",
    "Grid",
    "Learner",
    "Nsga2",
    "Nsga3",
    "QuasiRandom",
    "Random",
    "Searcher",
    "Tpe",
    "Turn",
]

"""Searchers by name. Adding one: a file here and a line below."""

from study.searchers.base import SEARCHERS, Exhausted, Searcher
from study.searchers.grid import Grid
from study.searchers.random import Random
from study.searchers.tpe import Tpe

__all__ = ["SEARCHERS", "Exhausted", "Grid", "Random", "Searcher", "Tpe"]

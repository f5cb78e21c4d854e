"""Searchers by name. Adding one: a file here and a line below."""

from study.searchers.base import SEARCHERS, Searcher
from study.searchers.random import Random
from study.searchers.tpe import Tpe

__all__ = ["SEARCHERS", "Random", "Searcher", "Tpe"]

"""What a searcher is: a rule that suggests the next trial from the told ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from compression.registry import Plugin, Registry
from study.options import Param


class Exhausted(Exception):
    """What a sampler raises when nothing is left to suggest: the study ends."""


class Searcher(Plugin, ABC):
    """Makes the Optuna sampler of one suggestion.

    A fresh sampler for each suggestion, seeded by (study seed, trial number), makes the suggestion
    a function of these and of what was told: a resumed study suggests what an undisturbed one
    would.
    """

    def refusals(self, params: Mapping[str, Param]) -> Iterator[str]:
        """Why it cannot search a space of these parameters: a sentence each. By default it can."""
        yield from ()

    @abstractmethod
    def sampler(self, seed: int) -> Any:
        """An ``optuna.samplers.BaseSampler``."""


SEARCHERS: Registry[Searcher] = Registry("searcher", Searcher)

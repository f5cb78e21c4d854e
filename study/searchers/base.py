"""What a searcher is: a rule that suggests the next trial from the told ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from compression.registry import Plugin, Registry


class Searcher(Plugin, ABC):
    """Makes the Optuna sampler of one suggestion.

    A fresh sampler for each suggestion, seeded by (study seed, trial number), makes the suggestion
    a function of these and of what was told: a resumed study suggests what an undisturbed one
    would.
    """

    @abstractmethod
    def sampler(self, seed: int) -> Any:
        """An ``optuna.samplers.BaseSampler``."""


SEARCHERS: Registry[Searcher] = Registry("searcher", Searcher)

"""What a searcher is: a rule that suggests the next trial from the told ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from compression.registry import Plugin, Registry, Values, knob
from study.space.params import Param

PRUNED, NOTHING, PREDICTED = "pruned", "nothing", "predicted"


class Exhausted(Exception):
    """What a sampler that ``remembers`` raises when nothing is left: the study ends."""


@dataclass(frozen=True)
class Turn:
    """Which suggestion a sampler is for.

    ``index`` counts the suggestions drawn before it, ``seed`` belongs to it alone. ``params`` is
    the space. ``memo`` is one dict for all turns of a search: what a sampler worked out and would
    only work out again.
    """

    index: int
    seed: int
    study_seed: int
    params: Mapping[str, Param]
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Searcher(Plugin, ABC):
    """Makes the Optuna sampler of one suggestion.

    A fresh sampler for each suggestion, seeded by (study seed, trial number), makes the suggestion
    a function of these and of what was told: a resumed study suggests what an undisturbed one
    would. ``remembers`` says that its samplers leave notes in the history besides the suggestion,
    such as which generation it belongs to; ``learns_of_reports`` that they read how far each trial
    came and at what cost.
    """

    remembers: ClassVar[bool] = False
    learns_of_reports: ClassVar[bool] = False

    def refusals(self, params: Mapping[str, Param]) -> Iterator[str]:
        """Why it cannot search a space of these parameters: a sentence each. By default it can."""
        yield from ()

    @property
    def memory(self) -> int | None:
        """The most ended trials that its samplers read. None: all of them."""
        return None

    @abstractmethod
    def sampler(self, turn: Turn) -> Any:
        """An ``optuna.samplers.BaseSampler``."""


@dataclass(frozen=True)
class Learner(Searcher):
    """A searcher that learns from the values it was told.

    ``told`` is what it hears of a trial that was stopped early: ``pruned`` is that it was, without
    values; ``nothing`` is as if it had never been asked for; ``predicted`` are values at the full
    budget as :class:`study.loop.prediction.Gains` predicts them, stated as such.
    """

    told: str = knob(
        PRUNED,
        Values((PRUNED, NOTHING, PREDICTED)),
        help="what it hears of a trial that was stopped early",
    )


SEARCHERS: Registry[Searcher] = Registry("searcher", Searcher)

"""Gaussian processes."""

from typing import Any

from compression.registry import IntRange, knob
from study.searchers.base import SEARCHERS, Learner, Turn


@SEARCHERS.register("gp")
class Gp(Learner):
    """Gaussian processes with expected hypervolume improvement (optuna GPSampler).

    They model the knobs that every trial has; those that depend on others are drawn at random, so
    that ``tpe`` is better where much depends on a choice. A suggestion takes seconds.
    """

    startup: int = knob(10, IntRange(1, 100_000), help="random trials with values first")
    history: int = knob(
        200,
        IntRange(10, 1_000_000),
        help="ended trials that are read: the best layers, and a sample of the rest",
    )

    @property
    def memory(self) -> int | None:
        """See :class:`study.searchers.base.Searcher`."""
        return self.history

    def sampler(self, turn: Turn) -> Any:
        """See :class:`study.searchers.base.Searcher`."""
        import optuna

        return optuna.samplers.GPSampler(
            n_startup_trials=self.startup, seed=turn.seed, warn_independent_sampling=False
        )

"""Multi-objective tree-structured Parzen estimators."""

from typing import Any

from compression.registry import IntRange, knob
from study.searchers.base import SEARCHERS, Learner, Turn


@SEARCHERS.register("tpe")
class Tpe(Learner):
    """Multi-objective TPE over joint groups of knobs (optuna TPESampler; arXiv 2304.11127).

    Of very many trials it reads ``history``: the non-dominated layers and a sample of the rest.
    """

    startup: int = knob(
        20,
        IntRange(1, 100_000),
        help="random trials first; at least twice the workers, as stopped trials count",
    )
    history: int = knob(
        300,
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

        from study.searchers.grouped import Grouped

        return Grouped(
            optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                multivariate=True,  # rank x init x method act together, not one by one
                constant_liar=True,  # trials that run now repel, so that workers spread
                seed=turn.seed,
            )
        )

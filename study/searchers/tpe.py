"""Multi-objective tree-structured Parzen estimators."""

import warnings
from typing import Any

from compression.registry import IntRange, knob
from study.searchers.base import SEARCHERS, Searcher


@SEARCHERS.register("tpe")
class Tpe(Searcher):
    """Multi-objective TPE over joint groups of knobs (optuna TPESampler; arXiv 2304.11127)."""

    startup: int = knob(
        20,
        IntRange(1, 100_000),
        help="random trials first; at least twice the workers, as stopped trials count",
    )

    def sampler(self, seed: int) -> Any:
        """See :class:`Searcher`."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                multivariate=True,  # rank x init x method act together, not one by one
                group=True,
                constant_liar=True,  # trials that run now repel, so that workers spread
                seed=seed,
            )

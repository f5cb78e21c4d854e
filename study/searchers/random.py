"""Random search."""

from typing import Any

from study.searchers.base import SEARCHERS, Searcher, Turn


@SEARCHERS.register("random")
class Random(Searcher):
    """Independent draws from the space (optuna RandomSampler)."""

    def sampler(self, turn: Turn) -> Any:
        """See :class:`Searcher`."""
        import optuna

        return optuna.samplers.RandomSampler(seed=turn.seed)

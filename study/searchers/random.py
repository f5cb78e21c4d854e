"""Random search."""

from typing import Any

from study.searchers.base import SEARCHERS, Searcher


@SEARCHERS.register("random")
class Random(Searcher):
    """Independent draws from the space (optuna RandomSampler)."""

    def sampler(self, seed: int) -> Any:
        """See :class:`Searcher`."""
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)

"""Genetic algorithms: generations of settings, bred from the best of the one before."""

from dataclasses import dataclass
from typing import Any, ClassVar

from compression.registry import IntRange, knob
from study.searchers.base import SEARCHERS, Learner, Turn


@dataclass(frozen=True)
class Genetic(Learner):
    """What both have in common.

    Only what was told with values belongs to a generation. What the optuna samplers cross are the
    knobs that every trial has; those that depend on others are drawn at random.
    """

    remembers: ClassVar[bool] = True  # generations, and who their parents are

    population: int = knob(
        50, IntRange(2, 100_000), help="trials with values that make a generation"
    )


@SEARCHERS.register("nsga2")
class Nsga2(Genetic):
    """NSGA-II: non-dominated layers, then crowding (optuna NSGAIISampler; Deb et al. 2002)."""

    def sampler(self, turn: Turn) -> Any:
        """See :class:`study.searchers.base.Searcher`."""
        import optuna

        return optuna.samplers.NSGAIISampler(population_size=self.population, seed=turn.seed)


@SEARCHERS.register("nsga3")
class Nsga3(Genetic):
    """NSGA-III: layers, then reference directions (optuna NSGAIIISampler; Deb and Jain 2014)."""

    def sampler(self, turn: Turn) -> Any:
        """See :class:`study.searchers.base.Searcher`."""
        import optuna

        return optuna.samplers.NSGAIIISampler(population_size=self.population, seed=turn.seed)

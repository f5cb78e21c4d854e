"""A forest of random trees that says where the front would grow most for the cost."""

from typing import Any, ClassVar

from compression.registry import FloatRange, IntRange, knob
from study.searchers.base import SEARCHERS, Searcher, Turn


@SEARCHERS.register("forest")
class Forest(Searcher):
    """Expected growth of the front over cost, by extremely randomised trees.

    Each suggestion maximises E[growth of the dominated hypervolume] / cost^thrift over random
    settings and neighbours of the front's. The expectation is over the trees, which predict the
    metric at the full budget from settings and share of the epochs: what was stopped early teaches
    too, as what it was. Size and cost in seconds are predicted likewise; a setting that is
    predicted to break a constraint is worth e^-10v of its growth at a violation of v. With more
    than two objectives the growth is that of a random scalarisation (ParEGO).

    Source: random-forest surrogates for conditional spaces as in SMAC (Hutter et al. 2011,
    arXiv 2109.09831), trees of Geurts et al. 2006, the improvement per cost of Snoek et al. 2012
    (arXiv 1206.2944).
    """

    learns_of_reports: ClassVar[bool] = True

    startup: int = knob(12, IntRange(1, 100_000), help="trials first that spread over the space")
    history: int = knob(200, IntRange(10, 100_000), help="the most ended trials that it learns of")
    trees: int = knob(16, IntRange(2, 1000))
    candidates: int = knob(400, IntRange(10, 100_000), help="settings it chooses among")
    random: float = knob(0.1, FloatRange(0.0, 1.0), help="share of suggestions drawn at random")
    thrift: float = knob(0.5, FloatRange(0.0, 1.0), help="0: cost is no matter")

    @property
    def memory(self) -> int | None:
        """See :class:`Searcher`."""
        return self.history

    def sampler(self, turn: Turn) -> Any:
        """See :class:`Searcher`."""
        from study.searchers.forest_sampler import ForestSampler

        return ForestSampler(turn, self)

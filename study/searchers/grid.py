"""All combinations, one after the other."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from compression.registry import IntRange
from study.searchers.base import SEARCHERS, Searcher, Turn
from study.space.combinations import ranges
from study.space.params import Param


@SEARCHERS.register("grid")
class Grid(Searcher):
    """Every combination of a finite space once, in the order of its lists.

    The last knob changes first, and the seed changes nothing. So many ``trials`` as there are
    combinations (``--dry-run`` counts them) run all; fewer run the first ones; with more the study
    ends when the space is exhausted.
    """

    remembers: ClassVar[bool] = True  # how far it came

    def refusals(self, params: Mapping[str, Param]) -> Iterator[str]:
        """See :class:`Searcher`: ranges have no list of combinations."""
        for key, domain in ranges(params).items():
            few = [domain.low, domain.high]
            if isinstance(domain, IntRange) and domain.high - domain.low < 10:
                few = list(range(domain.low, domain.high + 1))
            yield (
                f"{self.name}: {key} is a range, {domain.low:g} to {domain.high:g}; write a list, "
                f"such as [{', '.join(f'{value:g}' for value in few)}]"
            )

    def sampler(self, turn: Turn) -> Any:
        """See :class:`Searcher`."""
        from study.searchers.in_order import InOrder

        return InOrder(turn)

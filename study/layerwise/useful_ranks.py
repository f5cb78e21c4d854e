"""Ranks of methods for a whole model, cut to those that save something in some of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compression.methods import METHODS
from compression.rank_limits import oversized
from compression.registry import Domain, IntRange, Values
from study.space.options import Option, corner_plugins, option_params
from study.space.targets import Targeted, target_shapes

RANK = "rank"


def with_useful_ranks(options: Sequence[Option], some: Targeted) -> tuple[Option, ...]:
    """The options without ranks that save nothing in any of the layers.

    A list loses values, a range ends earlier. An option of which nothing is left is left out; where
    that would be all of them they stay, to be refused as they are.
    """
    shapes = target_shapes(some)
    found = (_cut(option, shapes) for option in options)
    return tuple(option for option in found if option is not None) or tuple(options)


def _cut(option: Option, shapes: Mapping[str, tuple[int, ...]]) -> Option | None:
    first = option.parts[0] if option.parts else option  # what follows stores what it leaves
    if (ranks := first.domains.get(RANK)) is None:
        return option

    def with_domains(domains: Mapping[str, Domain]) -> Option:
        cut = replace(first, domains=domains)
        return Option.chain([cut, *option.parts[1:]]) if option.parts else cut

    def with_ranks(domain: Domain) -> Option:
        return with_domains({**first.domains, RANK: domain})

    knobs = METHODS[first.name].knobs()
    apart = {k: d for k, d in first.domains.items() if RANK not in knobs[k].when}

    def useful(rank: int) -> bool:
        if not rank:  # something else sets it
            return True
        tried = with_domains({**apart, RANK: Values((rank,))})
        corners = corner_plugins("method", tried.name, option_params("method", tried))
        return not any(oversized(method, shapes) for method in corners)

    if isinstance(ranks, Values):
        few = tuple(rank for rank in ranks.values if useful(int(rank)))
        return with_ranks(Values(few)) if few else None
    low, high = int(ranks.low), int(ranks.high)
    if not useful(low):
        return None
    while not useful(high):
        high -= max(1, (high - low) // 16)
    return with_ranks(IntRange(low, high, ranks.log))

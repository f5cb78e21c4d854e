"""Learning rates: each optimizer has its own range, and each adapter its own place in it.

Comparing adapters over one common range compares how well the range suits them. An adapter whose
best rates lie elsewhere says by what factor (:attr:`Adapter.lr_factor`); its range is as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compression.adapters import ADAPTERS
from compression.registry import Domain, FloatRange, Scalar, Values
from study.space.options import Option
from study.space.params import Param
from trainables.optimizers import OPTIMIZERS


def learning_rates(
    params: Mapping[str, Param], optimizers: Sequence[Option], adapters: Sequence[Option]
) -> dict[str, Param]:
    """The optimizers' parameters, with learning rates for each adapter where they differ.

    ``adam.lr`` is that of adapters with the factor 1, and of all where the user set it;
    ``vera.adam.lr`` is Adam's own range times the factor of VeRA. An adapter with a rate of its own
    in the config, ``vera.lr``, has none of these. The factors are those of steps that do not grow
    with the gradients, as Adam's: gradient descent has one range for all.
    """
    found = dict(params)
    trained = [option for option in adapters if option.name != "none"]
    free = [option.name for option in trained if "lr" not in option.domains]
    for optimizer in optimizers:
        key = f"{optimizer.name}.lr"
        given = found.pop(key)
        scales = OPTIMIZERS[optimizer.name].scale_free and "lr" not in optimizer.domains
        apart = _factors(free) if scales else {}
        common = tuple(name for name in free if name not in apart)
        if len(common) == len(trained):
            found[key] = given
        elif common:
            found[key] = replace(given, when={**given.when, "adapter": common})
        for name, factor in apart.items():
            where = {**given.when, "adapter": (name,)}
            found[f"{name}.{key}"] = Param(_times(given.domain, factor), where)
    return found


def common_rates(
    params: Mapping[str, Param], optimizers: Sequence[Option], adapters: Sequence[str]
) -> dict[str, Param]:
    """The optimizers' parameters where several ``adapters`` may be trained together, at one rate.

    An optimizer's own range times the factors of the adapters: from the lowest to the highest.
    """
    found = dict(params)
    factors = [ADAPTERS[name].lr_factor for name in adapters]
    for optimizer in optimizers:
        key = f"{optimizer.name}.lr"
        if OPTIMIZERS[optimizer.name].scale_free and "lr" not in optimizer.domains:
            given = found[key]
            ends = [_times(given.domain, factor) for factor in (min(factors), max(factors))]
            found[key] = replace(given, domain=_spanning(*ends))
    return found


def _spanning(low: Domain, high: Domain) -> Domain:
    if isinstance(low, FloatRange) and isinstance(high, FloatRange):
        return replace(low, high=high.high)
    listed = [value for d in (low, high) if isinstance(d, Values) for value in d.values]
    return Values(tuple(dict.fromkeys(listed)))


def _factors(names: Sequence[str]) -> dict[str, float]:
    found = {name: ADAPTERS[name].lr_factor for name in names}
    return {name: factor for name, factor in found.items() if factor != 1}


def _times(domain: Domain, factor: float) -> Domain:
    if isinstance(domain, Values):
        return Values(tuple(float(value) * factor for value in domain.values))
    return FloatRange(domain.low * factor, domain.high * factor, domain.log)


def learning_rate(params: Mapping[str, Scalar]) -> float:
    """The learning rate of a flat suggestion that trains something."""
    adapter, optimizer = params["adapter"], params["optimizer"]
    keys = (f"{adapter}.lr", f"{adapter}.{optimizer}.lr", f"{optimizer}.lr")
    return float(next(params[key] for key in keys if key in params))

"""The vertical axis of a picture: percent of fractions, turned round for what is to be small."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trainables.record import Direction, Objective

__all__ = ["y_limits"]


def y_limits(axes: Any, y: Objective, low: float, high: float) -> None:
    """Set limits, scale and ticks for values from ``low`` to ``high``; better is up."""
    if not y.is_fraction:
        _plain(axes, y, low, high)
        return
    pad = max(0.15 * (high - low), 0.005)
    low = max(low - pad, 0.0)
    if high - low <= 0.1:
        axes.set_ylim(low, high + 1.3 * pad)
    else:
        _stretch(axes, low, high)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g}%"))


def _plain(axes: Any, y: Objective, low: float, high: float) -> None:
    if low > 0 and high > 3 * low and y.direction is Direction.MINIMIZE:
        axes.set_yscale("log")
        pad = (high / low) ** 0.1
        low, high = low / pad, high * pad
        marks = [m * 10.0**k for k in range(-6, 12) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
        inside = [m for m in marks if low <= m <= high]
        axes.yaxis.set_major_locator(FixedLocator(inside if len(inside) < 10 else inside[::2]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        pad = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - pad, high + pad
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
    worst, best = sorted((low, high), key=y.loss, reverse=True)
    axes.set_ylim(worst, best)


def _stretch(axes: Any, low: float, high: float) -> None:
    # Error on a log scale: the step from 98% to 99% matters as much as that from 80% to 90%.
    floor = 0.004
    axes.set_yscale(
        "function",
        functions=(
            lambda v: -np.log2(np.maximum(1 + floor - v, 1e-6)),
            lambda u: 1 + floor - 2.0 ** (-u),
        ),
    )
    top = min(1.0, 1 + floor - 0.6 * (1 + floor - high))
    axes.set_ylim(low, top)
    marks = [0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99]
    marks += [0.995, 1.0]
    axes.yaxis.set_major_locator(FixedLocator([m for m in marks if low <= m <= top]))
    axes.yaxis.set_minor_locator(NullLocator())

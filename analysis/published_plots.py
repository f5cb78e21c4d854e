"""Published points in a picture: on the study's axes where comparable, else on their own."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.plot_style import INK, PALETTE
from analysis.published import COUNTS, KINDS, SYSTEMS, UNCOMPRESSED, Placed, PublishedPoint

__all__ = ["PANEL_HEIGHT", "comparable", "draw_panels", "overlay", "rows_of"]

PANEL_HEIGHT, COLUMNS = 3.1, 2  # inches; panels side by side
MARKERS = ("^", "v", "<", ">", "p", "h")  # no point of a study has one of these


def comparable(published: Iterable[Placed]) -> list[PublishedPoint]:
    """The points that may stand on the study's axes."""
    return [one.point for one in published if not one.why_not]


def rows_of(count: int) -> int:
    """Rows that so many panels take."""
    return -(-count // COLUMNS)


def overlay(axes: Any, published: Iterable[Placed]) -> None:
    """Comparable points on the study's axes."""
    for (points, label), marker in zip(_series(comparable(published)), cycle(MARKERS)):
        style = {"color": INK, "markerfacecolor": "white", "linestyle": "", "markersize": 7}
        label = f"published: {_name(points[0])},\n{label}"
        axes.plot(*_xy(points), marker=marker, label=label, zorder=6, **style)


def draw_panels(figure: Any, groups: Sequence[Sequence[Placed]]) -> None:
    """A panel for each group of points that are not comparable."""
    figure.set_facecolor("#F6F6F6")
    columns = min(COLUMNS, len(groups))
    grid = list(figure.subplots(rows_of(len(groups)), columns, squeeze=False).flat)
    for axes, group in zip(grid, groups, strict=False):
        _panel(axes, group)
    for axes in grid[len(groups) :]:
        axes.remove()


def _panel(axes: Any, group: Sequence[Placed]) -> None:
    points = [one.point for one in group]
    first = points[0]
    colours = cycle(PALETTE)
    for (some, label), marker in zip(_series(points), cycle(MARKERS)):
        style = {"color": next(colours), "linewidth": 0.8, "markersize": 5, "alpha": 0.9}
        if label == UNCOMPRESSED:
            marker, style = "D", {"color": INK, "linestyle": "", "markersize": 4.5}
        elif len({point.ratio for point in some}) == 1:
            style["linestyle"] = ""
        axes.plot(*_xy(some), marker=marker, label=label, zorder=3, **style)
    _scales(axes, points)
    label = f"times smaller ({first.ratio_kind}):\n{KINDS[first.ratio_kind]}"
    axes.set_xlabel(label, loc="left", fontsize=8.5)
    axes.set_ylabel(COUNTS.get(first.metric, first.metric), fontsize=9)
    why = textwrap.fill(f"not comparable: {group[0].why_not}", 68)
    axes.set_title(f"published: {_name(first)}\n{why}", loc="left", fontsize=8.5, color=INK)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _scales(axes: Any, points: Sequence[PublishedPoint]) -> None:
    ratios = [point.ratio for point in points]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(ratios) / 1.2, max(ratios) * 1.2)
    steps = (1, 1.5) if max(ratios) < 6 * min(ratios) else (1,)
    axes.xaxis.set_major_locator(FixedLocator([s * 2.0**k for k in range(-4, 16) for s in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    percent = "" if points[0].metric in COUNTS else "%"
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g}{percent}"))
    axes.tick_params(labelsize=8.5)
    axes.grid(axis="y", color="#E2E2E2", linewidth=0.8)
    axes.set_axisbelow(True)


def _series(points: Iterable[PublishedPoint]) -> list[tuple[list[PublishedPoint], str]]:
    found: dict[tuple[str, str], list[PublishedPoint]] = {}
    for point in points:
        found.setdefault((point.system, point.series), []).append(point)
    return [(some, label) for (_, label), some in found.items()]


def _xy(points: Iterable[PublishedPoint]) -> tuple[list[float], list[float]]:
    pairs = sorted((p.ratio, p.value) for p in points if p.value is not None)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _name(point: PublishedPoint) -> str:
    """A system without its number."""
    return SYSTEMS[point.system].title.split(" ", 1)[1]

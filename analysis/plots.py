"""Pictures. Values are gathered elsewhere; here they are only drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import published_plots, units
from analysis.columns import Axis, Point
from analysis.fronts import non_dominated
from analysis.plot_style import BAND, GREY, INK, PALE, PALETTE, STYLE
from analysis.published import Placed, panels
from analysis.y_axis import y_limits
from trainables.record import Direction, Objective, Status

__all__ = ["Picture", "draw"]


@dataclass(frozen=True)
class Picture:
    """What one picture of a front shows.

    Whiskers are 90% intervals of the paired drop against dense, so that their lower end is the
    95% bound that certificates use: a point is within ``margin`` if its whisker stays in the band.
    Better is up: the axis of a metric that is to be small is turned round. Published points stand
    on these axes where they are comparable, else in panels of their own below.
    """

    title: str
    subtitle: str
    axis: Axis
    y: Objective
    front: Sequence[Point]
    others: Sequence[Point] = ()
    baselines: Mapping[str, Point] = field(default_factory=dict)
    notes: Sequence[tuple[Point, str]] = ()
    margin: float = 0.01
    published: Sequence[Placed] = ()

    @property
    def test(self) -> str:
        """Column of the test score."""
        return "test_" + self.y.name.removeprefix("val_")


def draw(picture: Picture) -> Figure:
    """The front over one size axis: validation open, test filled, the rest in grey."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(picture)
        _limits(axes, picture)
        _others(axes, picture)
        _band(axes, picture)
        _front(axes, picture)
        _baselines(axes, picture)
        _notes(axes, picture)
        _keys(axes, picture)
        published_plots.overlay(axes, picture.published)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
        figure.suptitle(
            _short(picture.title, 70), x=0.008, ha="left", fontsize=14, fontweight="bold"
        )
        axes.set_title(picture.subtitle, loc="left", fontsize=9.5, color=GREY, pad=10)
    return figure


def _figure(picture: Picture) -> tuple[Figure, Any]:
    """A figure and the axes of the front; below them the panels of what is not comparable."""
    width, height = 9.6, 5.6
    groups = panels(picture.published)
    below = published_plots.PANEL_HEIGHT * published_plots.rows_of(len(groups))
    size = (width, height + below)
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    if not groups:
        return figure, figure.add_subplot()
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, below])
    axes = halves[0].add_subplot()
    published_plots.draw_panels(halves[1], groups)
    return figure, axes


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _xy(points: Iterable[Point], picture: Picture, y: str) -> tuple[list[float], list[float]]:
    pairs = [(p.number(picture.axis.name), p.score(y)) for p in points]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return [a for a, _ in known], [b for _, b in known]


def _limits(axes: Any, picture: Picture) -> None:
    shown = [*picture.front, *picture.baselines.values()]
    published = published_plots.comparable(picture.published)
    xs, ys = _xy([*shown, *picture.others], picture, picture.y.name)
    xs += [point.ratio for point in published]
    axes.set_xscale("log", base=2)
    low, high = min(xs), max(xs)
    low, high = low / 1.4, high * 1.25
    axes.set_xlim(low, high)
    ticks = _x_ticks(low, high, picture.axis)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _x_text(v, picture.axis)))
    axes.set_xlabel(picture.axis.label)
    axes.set_ylabel(units.label(picture.y))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    ys = _xy(shown, picture, picture.y.name)[1] + _xy(shown, picture, picture.test)[1]
    ys += [end for p in picture.front for end in (*(_whisker(p, picture) or ()), *_seeds(p))]
    ys += [point.value for point in published if point.value is not None]
    y_limits(axes, picture.y, min(ys), max(ys))


def _x_ticks(low: float, high: float, axis: Axis) -> list[float]:
    if axis.objective.direction is Direction.MAXIMIZE:
        powers, steps = [2.0**k for k in range(-4, 60)], [1.25, 1.5, 1.75]
    else:
        powers, steps = [10.0**k for k in range(-6, 20)], [2.0, 5.0]
    ticks = [t for t in powers if low <= t <= high]
    between = [t * f for t in powers for f in steps if low <= t * f <= high]
    return ticks if len(ticks) >= 3 else sorted(ticks + between)


def _x_text(value: float, axis: Axis) -> str:
    if axis.objective.direction is Direction.MAXIMIZE:
        return f"{value:g}×"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{axis.objective.unit}"
    return f"{value:g} {axis.objective.unit}"


def _others(axes: Any, picture: Picture) -> None:
    for status, marker in ((Status.COMPLETED, "o"), (Status.STOPPED, "x")):
        some = [p for p in picture.others if p.outcome.status is status]
        xs, ys = _xy(some, picture, picture.y.name)
        width = 1.2 if marker == "x" else 0
        axes.scatter(xs, ys, s=22, c=PALE, marker=marker, linewidths=width, zorder=2)
    loss, bottom = picture.y.loss, axes.get_ylim()[0]
    ys = _xy(picture.others, picture, picture.y.name)[1]
    below = sum(loss(y) > loss(bottom) for y in ys)
    if below:
        text = f"▾ {below} more below"
        axes.text(0.008, 0.01, text, transform=axes.transAxes, color=GREY, fontsize=9)


def _band(axes: Any, picture: Picture) -> None:
    dense = picture.baselines.get("dense")
    score = dense.number(picture.test) if dense else None
    if score is None or not any(p.dense for p in picture.front):
        return
    y = picture.y
    label = f"within {units.margin_of(y, picture.margin, short=True)} of dense (test)"
    style = {"color": BAND, "alpha": 0.11, "linewidth": 0, "zorder": 0}
    worst = y.value(y.loss(score) + y.allowance(picture.margin, score))
    axes.axhspan(worst, score, label=label, **style)


def _colours(picture: Picture) -> dict[str, str]:
    names = sorted({str(p.values["method"]) for p in picture.front})
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _front(axes: Any, picture: Picture) -> None:
    xs, ys = _outline(picture)
    # Anything up to a member's compression reaches its metric, so the steps hang from the right.
    axes.step(xs, ys, where="pre", color=INK, linewidth=1.2, alpha=0.55, zorder=3)
    for point in picture.front:
        colour = _colours(picture)[str(point.values["method"])]
        x, y = point.number(picture.axis.name), point.score(picture.y.name)
        test = point.number(picture.test)
        if ends := _seeds(point):
            axes.vlines([x], *ends, color=colour, linewidth=7, alpha=0.22, zorder=3)
        marker = "s" if point.outcome.status is Status.STOPPED else "o"
        _pair(axes, x, y, test, marker, colour)
        if whisker := _whisker(point, picture):
            axes.vlines([x], *whisker, color=colour, linewidth=1.4, alpha=0.75, zorder=4)


def _outline(picture: Picture) -> tuple[list[float], list[float]]:
    """The front's points that are best over the two axes drawn, where it has more objectives."""
    xs, ys = _xy(picture.front, picture, picture.y.name)
    axis, y = picture.axis.objective, picture.y
    keep = non_dominated([(axis.loss(a), y.loss(b)) for a, b in zip(xs, ys, strict=True)])
    shown = [pair for pair, best in zip(zip(xs, ys, strict=True), keep, strict=True) if best]
    return [a for a, _ in shown], [b for _, b in shown]


def _seeds(point: Point) -> tuple[float, ...]:
    """Ends of the interval over seeds; nothing where the point was run once."""
    ends = (point.number("val_low"), point.number("val_high"))
    return tuple(end for end in ends if end is not None)


def _pair(
    axes: Any, x: float | None, y: float | None, test: float | None, marker: str, colour: str
) -> None:
    """Validation as a ring, test as a dot that fits into it: both are seen where they agree."""
    ring = {"edgecolors": colour, "linewidths": 1.5}
    axes.scatter([x], [y], s=62, marker=marker, facecolors="white", zorder=5, **ring)
    if test is not None:
        axes.scatter([x], [test], s=20, marker=marker, color=colour, zorder=7)


def _whisker(point: Point, picture: Picture) -> tuple[float, float] | None:
    test = point.number(picture.test)
    return None if point.dense is None or test is None else point.dense.around(test, picture.y)


def _baselines(axes: Any, picture: Picture) -> None:
    for name, point in picture.baselines.items():
        x, y = point.number(picture.axis.name), point.number(picture.y.name)
        test = point.number(picture.test)
        if x is None or y is None:
            continue
        _pair(axes, x, y, test, "D", INK)
        # An adapter makes it larger than dense: its name goes to the left of dense's.
        aside = name == "dense_recovered"
        text = "dense +\nrecovery" if aside else name
        ends = sorted((y, y if test is None else test), key=picture.y.loss)
        axes.annotate(
            text,
            (x, ends[1]),
            (6 if aside else 0, -9),
            textcoords="offset points",
            ha="right" if aside else "center",
            va="top",
            fontsize=9,
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=8,
        )


def _notes(axes: Any, picture: Picture) -> None:
    for point, text in picture.notes:
        x, y = point.number(picture.axis.name), point.score(picture.y.name)
        across = float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0])
        side = "left" if across < 0.25 else "right" if across > 0.75 else "center"
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.9, "linestyle": ":"}
        top = axes.get_xaxis_transform()
        axes.annotate("", (x, y), (x, 0.95), textcoords=top, arrowprops=line, zorder=1)
        axes.text(x, 0.99, text, transform=top, ha=side, va="top", fontweight="bold", zorder=8)


def _keys(axes: Any, picture: Picture) -> None:
    """What the legend names beside what is labelled where it is drawn."""

    def mark(label: str, marker: str = "o", **style: Any) -> None:
        style = {"color": GREY, "linestyle": "", "markersize": 6} | style
        axes.plot([], [], marker=marker, label=label, **style)

    for name, colour in _colours(picture).items():
        mark(_short(name, 24), color=colour)
    several = any(_seeds(p) for p in picture.front)
    what = "validation, mean of seeds" if several else "validation"
    mark(what, markerfacecolor="white", markeredgewidth=1.5)
    if several:
        axes.plot([], [], color=GREY, linewidth=7, alpha=0.3, label="95% interval over seeds")
    if any(p.number(picture.test) is not None for p in picture.front):
        mark("test, 90% paired interval", markersize=4)
    if any(p.outcome.status is Status.STOPPED for p in picture.front):
        mark("stopped early (front)", marker="s", markerfacecolor="white", markeredgewidth=1.5)
    statuses = {p.outcome.status for p in picture.others}
    if Status.COMPLETED in statuses:
        mark("dominated", color=PALE)
    if Status.STOPPED in statuses:
        mark("dominated, stopped early", marker="x", color=PALE)
    if picture.baselines:
        mark("baseline", marker="D", color=INK, markerfacecolor="white", markeredgewidth=1.5)

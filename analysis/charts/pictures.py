"""A chart as a picture. What is drawn and in which scales is the chart's; here it is only drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.looks import DASHES, SHAPES, Looks, look_of, looks
from analysis.plot_style import GREY, INK, SHADES, STYLE, ink_on, shades_of

__all__ = ["draw"]

WIDTH, HEIGHT = 4.6, 3.3  # inches of a panel
NARROWEST = 7.0  # inches of a picture
MOST_IN_TWOS = 4096
NEAR = {2.0: ((2.5, (1.0, 1.25, 1.5, 1.75)), (6.0, (1.0, 1.5))), 10.0: ((30.0, (1.0, 2.0, 5.0)),)}
"""Steps between the powers of a base where the ends are less than so many times apart."""
ACROSS, LONGEST = 28, 84  # characters of a line of a legend, and of a name in it

Style = Mapping[str, Any]


def draw(chart: Chart) -> Figure:
    """Small multiples under a title, above how to read them."""
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    width = max(WIDTH * columns, NARROWEST)
    note = textwrap.fill(chart.note, int(width * 15))
    height = HEIGHT * rows + 0.5 + 0.15 * note.count("\n")
    found = looks(chart)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel in zip(grid, chart.panels, strict=False):
            _panel(axes, panel, found)
            _share(axes, panel, chart)
        for axes in grid[len(chart.panels) :]:
            axes.remove()
        figure.suptitle(_short(chart.title, 90), x=0.008, ha="left", fontsize=13, fontweight="bold")
        figure.supxlabel(note, x=0.008, ha="left", fontsize=8.5, color=GREY)
        _legend(figure, chart)
    return figure


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _wrapped(name: str) -> str:
    """A name in lines of a legend, with its end: names of studies often differ only there."""
    line = " ".join(name.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]}…{line[-LONGEST // 2 + 1 :]}"
    text = "\n".join(textwrap.wrap(line, ACROSS))
    return f" {text}" if text.startswith("_") else text  # else it would be left out


def _panel(axes: Any, panel: Panel, found: Looks) -> None:
    names = {way: _names(panel, way) for way in ("x", "y")}
    for series in panel.series:
        x, y = (_places(getattr(series, way), names[way]) for way in ("x", "y"))
        PAINTERS[series.mark](axes, series, x, y, _style(series, found))
    axes.set_title(_short(panel.title, 60), loc="left", fontsize=10)
    for scale, axis, way in ((panel.x, axes.xaxis, "x"), (panel.y, axes.yaxis, "y")):
        _scale(axis, scale, names[way])
        axis.set_label_text(_short(scale.label, 60))
        if scale.reversed:
            axis.set_inverted(True)
    if all(series.mark is not Mark.CELLS for series in panel.series):
        axes.grid(axis="x" if names["y"] else "y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _share(axes: Any, panel: Panel, chart: Chart) -> None:
    """The ends that all panels have in common, where they have."""
    for scale, way in ((panel.x, "x"), (panel.y, "y")):
        if way in chart.ranges:
            low, high = chart.ranges[way]
            axes.set(**{f"{way}lim": (high, low) if scale.reversed else (low, high)})


def _names(panel: Panel, way: str) -> dict[str, int]:
    """Where the names of an axis stand on it, in the order in which they appear."""
    values = [value for series in panel.series for value in getattr(series, way)]
    texts = dict.fromkeys(value for value in values if isinstance(value, str))
    return {name: i for i, name in enumerate(texts)}


def _places(values: Sequence[float | str], names: Mapping[str, int]) -> list[float]:
    return [names[value] if isinstance(value, str) else value for value in values]


def _scale(axis: Any, scale: Scale, names: Mapping[str, int]) -> None:
    if names:
        axis.set_major_locator(FixedLocator(list(names.values())))
        axis.set_major_formatter(FuncFormatter(lambda v, _: _name_at(names, v)))
        if axis.axis_name == "x" and (len(names) > 4 or max(map(len, names)) > 8):
            axis.set_tick_params(rotation=35)
            for label in axis.get_ticklabels():
                label.set(ha="right", rotation_mode="anchor")
        return
    if scale.log:
        axis._set_axes_scale("log")
        low, high = axis.get_data_interval()
        base = (
            2.0 if high <= MOST_IN_TWOS and high < 2000 * low else 10.0
        )  # ranks and ratios double
        steps = next((some for most, some in NEAR[base] if high < most * low), (1.0,))
        axis.set_major_locator(LogLocator(base, steps, numticks=9))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_percent if scale.percent else _number))


def _name_at(names: Mapping[str, int], value: float) -> str:
    return next((_short(name, 20) for name, at in names.items() if at == value), "")


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.4g}%"


def _number(value: float, _: object) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / (1e3 if prefix == 'k' else factor):.3g}{prefix}"
    return f"{value:.4g}"


def _style(series: Series, found: Looks) -> Style:
    look = look_of(series, found)
    return {
        "color": look.colour,
        "shape": SHAPES[look.shape],
        "dash": DASHES[look.dash],
        "zorder": 1.5 if series.muted else 3,
    }


def _points(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    _whiskers(axes, series, x, style)
    face = "white" if series.hollow else style["color"]
    axes.scatter(
        x,
        y,
        s=12 if series.muted else 26,
        marker=style["shape"],
        facecolors=face,
        edgecolors=style["color"],
        linewidths=1.2 if series.hollow else 0,
        zorder=style["zorder"],
    )


def _whiskers(axes: Any, series: Series, at: Sequence[float], style: Style) -> None:
    ends = zip(at, series.low, series.high, strict=False)
    for x, low, high in ends:
        if low is not None and high is not None:
            axes.vlines([x], low, high, color=style["color"], linewidth=1.4, alpha=0.75, zorder=2.5)


def _line(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    _whiskers(axes, series, x, style)
    few = len(x) <= 40 and not series.muted
    axes.plot(
        x,
        y,
        color=style["color"],
        linestyle=style["dash"],
        linewidth=1.0 if series.muted else 1.5,
        marker=style["shape"] if few else "",
        markersize=3.5,
        markerfacecolor="white" if series.hollow else style["color"],
        zorder=style["zorder"],
    )


def _step(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    axes.step(x, y, where="post", color=style["color"], linewidth=1.5, zorder=style["zorder"])


def _band(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    known = [
        (at, low, high)
        for at, low, high in zip(x, series.low, series.high, strict=True)
        if low is not None and high is not None
    ]
    if known:
        axes.fill_between(*zip(*known, strict=True), color=style["color"], alpha=0.22, linewidth=0)


def _bars(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    lying = any(isinstance(value, str) for value in series.y)
    at, length = (y, x) if lying else (x, y)
    (axes.barh if lying else axes.bar)(at, length, 0.7, color=style["color"], alpha=0.85, zorder=2)
    lines = axes.hlines if lying else axes.vlines
    for place, low, high in zip(at, series.low, series.high, strict=False):
        if low is not None and high is not None:
            lines([place], low, high, color=INK, linewidth=1.2, zorder=3)
    if lying:
        axes.set_ylim(max(at) + 0.6, -0.6)  # the first name at the top


def _cells(axes: Any, series: Series, x: list[float], y: list[float], style: Style) -> None:
    shade = [value for value in series.shade if value is not None]
    if not shade:
        return
    low, high = min(shade), max(shade)
    colours = LinearSegmentedColormap.from_list("shades", SHADES)
    marks = axes.scatter([], [], c=[], cmap=colours, vmin=low, vmax=high)
    for a, b, value, colour in zip(x, y, series.shade, shades_of(series.shade), strict=True):
        if value is None or colour is None:
            continue
        across, down = [a - 0.5, a + 0.5, a + 0.5, a - 0.5], [b - 0.5, b - 0.5, b + 0.5, b + 0.5]
        axes.fill(across, down, color=colour, linewidth=0)
        text, ink = f"{100 * value:.3g}%" if series.percent else f"{value:.3g}", ink_on(colour)
        axes.text(a, b, text, color=ink, ha="center", va="center", fontsize=7)
    axes.set_xlim(-0.5, max(x) + 0.5)
    axes.set_ylim(max(y) + 0.5, -0.5)
    form = FuncFormatter(_percent if series.percent else _number)
    axes.figure.colorbar(marks, ax=axes, shrink=0.9, format=form)


Painter = Callable[[Any, Series, list[float], list[float], Style], None]
PAINTERS: Mapping[Mark, Painter] = {
    Mark.POINTS: _points,
    Mark.LINE: _line,
    Mark.STEP: _step,
    Mark.BAND: _band,
    Mark.BARS: _bars,
    Mark.CELLS: _cells,
}


def _legend(figure: Figure, chart: Chart) -> None:
    """Each name once, by its colour and marker; nothing where there is only one."""
    from matplotlib.lines import Line2D

    found = looks(chart)
    handles: dict[str, Any] = {}
    for panel in chart.panels:
        for series in panel.series:
            if series.mark is Mark.CELLS or series.name in handles:
                continue
            style = _style(series, found)
            marks = series.mark is Mark.POINTS
            handles[series.name] = Line2D(
                [],
                [],
                color=style["color"],
                marker=style["shape"] if marks else "",
                linestyle="" if marks else style["dash"],
                linewidth=7 if series.mark in (Mark.BAND, Mark.BARS) else 1.6,
                alpha=0.3 if series.mark is Mark.BAND else 1.0,
                markerfacecolor="white" if series.hollow else style["color"],
            )
    if len(handles) < 2:
        return
    labels = [_wrapped(name) for name in handles]
    figure.legend(
        list(handles.values()), labels, loc="outside right upper", frameon=False, fontsize=8.5
    )

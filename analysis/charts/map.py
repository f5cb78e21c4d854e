"""Which method goes with which init: the middle trial of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from analysis import units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.tried import SEARCH, tried
from analysis.findings import Findings

__all__ = ["method_by_init"]

WITHOUT = "no adapter"
_Cells = Mapping[tuple[str, str], Sequence[float]]


def method_by_init(found: Findings) -> Chart | None:
    """The metric's median by method and init; None where there is a single pair."""
    cells: dict[tuple[str, str], list[float]] = {}
    for one in tried(found, SEARCH):
        cells.setdefault((one.method, one.init or WITHOUT), []).append(one.value)
    if len(cells) < 2:
        return None
    name = units.name(found.y)
    texts = {pair: _said(found, pair, values) for pair, values in cells.items()}
    medians = {pair: float(median(values)) for pair, values in cells.items()}
    counts = {pair: float(len(values)) for pair, values in cells.items()}
    return Chart(
        "Methods and inits",
        f"The median of {name} on validation over the trials of a pair, whatever their other "
        "settings, stopped ones as they are; and how many trials that is, as a median of few is "
        "a chance value. Empty: never tried. Descriptive: sizes differ from pair to pair, and "
        "a searcher tries more of what did well.",
        [
            _panel(f"median of {name}", medians, texts, found.y.is_fraction),
            _panel("trials", counts, texts),
        ],
        columns=2,
    )


def _said(found: Findings, pair: tuple[str, str], values: Sequence[float]) -> str:
    middle = units.value(found.y, float(median(values)))
    return f"{pair[0]}, {pair[1]}: median {middle} of {units.counted(len(values), 'trial')}"


def _panel(
    title: str,
    shades: Mapping[tuple[str, str], float],
    texts: Mapping[tuple[str, str], str],
    percent: bool = False,
) -> Panel:
    # A cell without trials is there, without a shade, so that rows and columns stay in order.
    methods = sorted({method for method, _ in shades})
    inits = sorted({init for _, init in shades}, key=lambda init: (init == WITHOUT, init))
    pairs = [(method, init) for method in methods for init in inits]
    cells = Series(
        title,
        Mark.CELLS,
        [init for _, init in pairs],
        [method for method, _ in pairs],
        shade=[shades.get(pair) for pair in pairs],
        texts=[texts.get(pair, f"{pair[0]}, {pair[1]}: never tried") for pair in pairs],
        percent=percent,
    )
    return Panel(title, Scale("init"), Scale("method"), [cells])

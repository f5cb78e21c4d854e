"""A front as lines of a terminal: what a study and a report print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import units
from analysis.masking import printable
from trainables.record import Objective

__all__ = ["WIDTH", "front_text", "metric_line"]

WIDTH = 80  # of a terminal that says nothing of itself, and of a log
BETWEEN, NARROWEST = "  ", 6

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Column:
    """A column, and how its values are written; numbers stand right, a ``whole`` one is not cut."""

    head: str
    name: str
    write: Callable[[Any], str] = str
    right: bool = True
    of_metric: bool = False
    whole: bool = False


def front_text(rows: Iterable[Row], y: Objective) -> str:
    """Which metric it is, then a line a point, the smallest compression first.

    Lines have at most :data:`WIDTH` characters. What no point has is left out, as are recipe and
    status where they are those of all trials; names that are too long are cut. Points that read
    alike all the same have their ids.

    Args:
        rows: The points, as :attr:`analysis.columns.Point.values`.
        y: The primary metric, with or without ``val_``.
    """
    points = sorted(({**row, "said": _setting(row)} for row in rows), key=_ratio)
    shown = [column for column in _columns(y) if _says(column, points)]
    said = metric_line(y, [column.head for column in shown if column.of_metric])
    _, *lines = table = _table(shown, points)
    if _alike(lines, shown) and _says(TRIAL, points):
        table = _table([*shown, TRIAL], points)
    return "\n".join([said, *(BETWEEN.join(cells).rstrip() for cells in table)])


def _ratio(row: Row) -> float:
    return float(row["ratio"])


def _setting(row: Row) -> str:
    """Method with its options, adapter with its start and rank, and what is done to the rest."""

    def value(name: str) -> str:
        found = row.get(name)
        return str(found) if _is_known(found) and found not in ("none", 0) else ""

    text = " ".join(filter(None, [str(row.get("method") or ""), value("options")]))
    if value("adapter"):
        rank = f"r{float(row['rank']):.0f}" if value("rank") else ""
        text += " + " + " ".join(filter(None, [value("init"), value("adapter"), rank]))
    return text + (f"; rest {value('rest')}" if value("rest") else "")


def _table(shown: Sequence[_Column], points: Sequence[Row]) -> list[list[str]]:
    """The cells, each as wide as its column."""
    cells = [[column.head for column in shown]]
    cells += [[_cell(column, row.get(column.name)) for column in shown] for row in points]
    return list(_fitted_cells(cells, shown))


def _alike(lines: Sequence[Sequence[str]], shown: Sequence[_Column]) -> bool:
    """Whether two lines say nothing different but figures."""
    words = [
        tuple(c for c, of in zip(cells, shown, strict=True) if not of.right) for cells in lines
    ]
    return len(set(words)) < len(words)


def metric_line(y: Objective, heads: Sequence[str]) -> str:
    """What columns are of: ``val, test: perplexity (lower is better)``."""
    said = printable(f"{', '.join(heads)}: {units.label(y)}").replace("\n", " ")
    return _fitted(said, min(len(said), WIDTH), right=False)


def _columns(y: Objective) -> list[_Column]:
    def score(value: float) -> str:
        return units.value(y, value)

    short = y.name.removeprefix("val_")
    return [
        _Column("ratio", "ratio", lambda value: f"{value:.3g}×"),
        _Column("bytes", "file_bytes", lambda value: f"{value:,.0f}"),
        _Column("val", f"val_{short}", score, of_metric=True),
        _Column("test", f"test_{short}", score, of_metric=True),
        _Column("val mean", "val_mean", score, of_metric=True),
        _Column("stays", "probability", lambda value: f"{100 * value:.0f}%"),
        _Column("setting", "said", right=False),
        _Column("recipe", "recipe", right=False),
        _Column("status", "status", right=False),
    ]


TRIAL = _Column("trial", "trial_id", right=False, whole=True)
USUAL = {"recipe": {"", "recover"}, "status": {"completed"}}
"""Values that need not be said where no point has another."""


def _says(column: _Column, rows: Sequence[Row]) -> bool:
    values = {row.get(column.name) for row in rows if _is_known(row.get(column.name))}
    return bool(values - USUAL.get(column.name, {""}))


def _is_known(value: Any) -> bool:
    # A table of pandas has NaN where nothing was measured.
    return value is not None and value == value


def _cell(column: _Column, value: Any) -> str:
    return printable(column.write(value)).replace("\n", " ") if _is_known(value) else ""


def _fitted_cells(table: Sequence[Sequence[str]], shown: Sequence[_Column]) -> Iterator[list[str]]:
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    texts = [at for at, column in enumerate(shown) if not (column.right or column.whole)]
    while sum(widths) + len(BETWEEN) * (len(widths) - 1) > WIDTH and texts:
        widest = max(texts, key=lambda at: widths[at])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    for row in table:
        yield [
            _fitted(text, width, column.right)
            for text, width, column in zip(row, widths, shown, strict=True)
        ]


def _fitted(text: str, width: int, right: bool) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.rjust(width) if right else cut.ljust(width)

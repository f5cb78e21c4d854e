"""A front as lines of a terminal: what a study and a report print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """A column, and how its values are written; numbers stand at the right."""

    head: str
    name: str
    write: Callable[[Any], str] = str
    right: bool = True
    of_metric: bool = False


def front_text(rows: Iterable[Row], y: Objective) -> str:
    """Which metric it is, then a line a point, the smallest compression first.

    Lines have at most :data:`WIDTH` characters. What no point has is left out, as are recipe and
    status where they are those of all trials; names that are too long are cut.

    Args:
        rows: The points, as :attr:`analysis.columns.Point.values`.
        y: The primary metric, with or without ``val_``.
    """
    points = sorted(rows, key=lambda row: float(row["ratio"]))
    shown = [column for column in _columns(y) if _says(column, points)]
    table = [[column.head for column in shown]]
    table += [[_cell(column, row.get(column.name)) for column in shown] for row in points]
    said = metric_line(y, [column.head for column in shown if column.of_metric])
    return "\n".join([said, *_lines(table, [column.right for column in shown])])


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
        _Column("method", "method", right=False),
        _Column("init", "init", right=False),
        _Column("adapter", "adapter", right=False),
        _Column("rank", "rank", lambda value: f"{value:.0f}"),
        _Column("recipe", "recipe", right=False),
        _Column("status", "status", right=False),
    ]


USUAL = {"recipe": {"", "recover"}, "status": {"completed"}}
"""Values that need not be said where no point has another."""


def _says(column: _Column, rows: Sequence[Row]) -> bool:
    values = {row.get(column.name) for row in rows if _is_known(row.get(column.name))}
    return bool(values - USUAL.get(column.name, set()))


def _is_known(value: Any) -> bool:
    # A table of pandas has NaN where nothing was measured.
    return value is not None and value == value


def _cell(column: _Column, value: Any) -> str:
    return printable(column.write(value)).replace("\n", " ") if _is_known(value) else ""


def _lines(table: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterable[str]:
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    texts = [at for at, is_right in enumerate(right) if not is_right]
    while sum(widths) + len(BETWEEN) * (len(widths) - 1) > WIDTH and texts:
        widest = max(texts, key=lambda at: widths[at])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    for row in table:
        cells = [
            _fitted(text, width, is_right)
            for text, width, is_right in zip(row, widths, right, strict=True)
        ]
        yield BETWEEN.join(cells).rstrip()


def _fitted(text: str, width: int, right: bool) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.rjust(width) if right else cut.ljust(width)

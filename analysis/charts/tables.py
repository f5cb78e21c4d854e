"""Flat rows as CSV and Parquet: everything that a chart draws, every point of a front."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from analysis.masking import cell

__all__ = ["as_csv", "as_parquet"]

Rows = Iterable[Mapping[str, Any]]


def as_csv(rows: Rows) -> bytes:
    """A line a row under the columns of them all; None is empty, numbers are whole."""
    rows = list(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    """The same as Parquet; a column of numbers and names holds all as text."""
    rows = list(rows)
    columns = {name: _column([row.get(name) for row in rows]) for name in _columns(rows)}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _column(values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if str in kinds and len(kinds) > 1:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(
        [float(v) if v is not None else v for v in values] if float in kinds else values
    )

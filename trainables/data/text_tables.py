"""Labelled texts out of Parquet, CSV and hub data sets: read, checked, cleaned."""

from __future__ import annotations

import difflib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.registry import InvalidSetting
from trainables.data.duplicates import THRESHOLD, find_duplicates

EMPTY_SHARE = 0.1
"""More empty texts than this share of all are an error, not a remark."""
NAMED = 5  # rows that are named before the rest is only counted
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Source:
    """Where labelled texts are.

    ``data`` is a Parquet, CSV or TSV file, or the name of a hub data set (``name`` or
    ``name:split``); ``text`` one column or several, separated by commas and joined by a line break;
    ``classes`` how many labels 0, 1, ... there are, or 0: one class for each value that occurs.
    """

    data: str | bytes
    text: str
    label: str = ""
    classes: int = 0
    where: str = ""
    """How messages call the data; ``data`` itself by default."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.where or str(self.data)

    @property
    def columns(self) -> list[str]:
        """The text columns."""
        return [column.strip() for column in self.text.split(",")]


@dataclass(frozen=True)
class Labelled:
    """Texts without empty ones and duplicates, labels (n,) int64, and what was left out."""

    texts: list[str]
    labels: NDArray[np.int64]
    notes: tuple[str, ...]


def read(source: Source) -> Labelled:
    """The texts of a source, ready to be split.

    Raises:
        InvalidSetting: no such file or column; missing labels or labels out of range, all of them
            counted and the first few named; too many empty texts.
    """
    table = _columns(source, [*source.columns, source.label])
    labels, _ = _classes(source, table[source.label])
    rows, texts, notes = _cleaned(source, _texts(source, table))
    return Labelled(texts, labels[rows], notes)


def documents(source: Source) -> tuple[list[str], tuple[str, ...]]:
    """The texts of a source without labels, and what was left out: as :func:`read`."""
    return _cleaned(source, _texts(source, _columns(source, source.columns)))[1:]


def class_counts(source: Source) -> dict[str, int]:
    """How often each class occurs, empty and repeated texts included.

    Of the text columns no more is read than that they are there and hold text.

    Raises:
        InvalidSetting: as :func:`read`.
    """
    labels, names = _classes(source, _columns(source, [source.label])[source.label])
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def check_columns(source: Source) -> None:
    """Find out whether the columns are there and hold text; reads no more than it must.

    Raises:
        InvalidSetting: as :func:`read`.
    """
    _columns(source, [source.label] if source.label else [])


def _cleaned(
    source: Source, texts: list[str]
) -> tuple[NDArray[np.int64], list[str], tuple[str, ...]]:
    """Rows that stay, their texts, and what is to be said of the others."""
    full = np.fromiter(map(bool, texts), bool, len(texts))
    notes = list(_empty_notes(source, full))
    rows = full.nonzero()[0]
    found = find_duplicates([texts[row] for row in rows.tolist()])
    if found.exact or found.near:
        notes.append(
            f"{source.name}: {found.exact} texts left out that repeat the words of another, and "
            f"{found.near} near-duplicates (Jaccard similarity of three-word shingles from "
            f"{THRESHOLD:g}); the first of each group stays"
        )
    rows = rows[found.keep]
    return rows, [texts[row] for row in rows.tolist()], tuple(notes)


def _texts(source: Source, table: dict[str, list[Any]]) -> list[str]:
    """The text columns, stripped and joined."""
    columns = [[(value or "").strip() for value in table[name]] for name in source.columns]
    return ["\n".join(filter(None, row)) for row in zip(*columns, strict=True)]


def _empty_notes(source: Source, full: NDArray[np.bool_]) -> Iterator[str]:
    empty = (~full).nonzero()[0]
    said = f"{source.name}: {len(empty)} of {len(full)} texts are empty ({_rows(empty)})"
    if len(empty) > EMPTY_SHARE * len(full):
        raise InvalidSetting([f"{said}, more than {EMPTY_SHARE:.0%}: is '{source.text}' right?"])
    if len(empty):
        yield f"{said}; left out"


def _rows(rows: NDArray[np.int64]) -> str:
    """``rows 3, 7, ...``: 1 is the first."""
    named = ", ".join(str(row + 1) for row in rows[:NAMED].tolist())
    return f"row{'s' if len(rows) > 1 else ''} {named}{', ...' if len(rows) > NAMED else ''}"


def _classes(source: Source, values: list[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Class of each row, (n,), and the names of the classes."""
    if not values:
        raise InvalidSetting([f"{source.name}: has no rows"])
    missing = np.array([value is None or value == "" or value != value for value in values])
    if missing.any():
        rows = missing.nonzero()[0]
        raise InvalidSetting(
            [f"{source.name}: {len(rows)} labels are missing in '{source.label}' ({_rows(rows)})"]
        )
    if source.classes:
        return _numbered(source, values), [str(i) for i in range(source.classes)]
    known = sorted(set(values), key=lambda value: (str(type(value)), value))
    if problem := _no_classes(known, len(values)):
        raise InvalidSetting([f"{source.name}: column '{source.label}' {problem}"])
    number = {value: i for i, value in enumerate(known)}
    return np.array([number[value] for value in values]), [str(value) for value in known]


def _numbered(source: Source, values: list[Any]) -> NDArray[np.int64]:
    valid = np.array([type(v) in (int, bool) and 0 <= v < source.classes for v in values])
    if not valid.all():
        rows = (~valid).nonzero()[0]
        shown = ", ".join(f"{values[row]!r} in row {row + 1}" for row in rows[:NAMED].tolist())
        raise InvalidSetting(
            [
                f"{source.name}: {len(rows)} labels in '{source.label}' are not in 0 to "
                f"{source.classes - 1}: {shown}{', ...' if len(rows) > NAMED else ''}"
            ]
        )
    return np.array(values, dtype=np.int64)


def _no_classes(known: Sequence[Any], count: int) -> str | None:
    if len(known) < 2:
        return f"has one value only, {known[0]!r}: there is nothing to tell apart"
    if any(isinstance(value, float) and not value.is_integer() for value in known):
        return "holds fractions: classes are integers, strings or truth values"
    if len(known) > min(MOST_CLASSES, count / 2):
        return f"has {len(known)} different values in {count} rows: these are no classes"
    return None


def _columns(source: Source, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns by name; all that the source names are checked.

    Raises:
        InvalidSetting: one that is not there, a text column that holds no text: all of them.
    """
    table, schema = _table(source, names)
    needed = dict.fromkeys(filter(None, [*source.columns, source.label]))
    errors = _missing_columns(source, [n for n in needed if n not in schema.names], schema.names)
    errors += [
        f"{source.name}: column '{name}' holds {schema.field(name).type} values, not text"
        for name in source.columns
        if name in schema.names and not _is_text(schema.field(name).type)
    ]
    if errors:
        raise InvalidSetting(errors)
    return {name: table.column(name).to_pylist() for name in names}


def _is_text(kind: Any) -> bool:
    """Of an Arrow type; a column without any value has the type ``null``."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "null")


def _missing_columns(source: Source, missing: Sequence[str], known: Sequence[str]) -> list[str]:
    errors = []
    for name in missing:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"columns: {', '.join(known)}"
        errors.append(f"{source.name}: has no column '{name}'; {hint}")
    return errors


def _table(source: Source, names: Sequence[str]) -> tuple[Any, Any]:
    """A pyarrow table with the columns that are there, and the schema of all columns."""
    import pyarrow

    if isinstance(source.data, str) and not Path(source.data).exists():
        found = _hub(source.data)
        return found, found.schema
    raw = source.data if isinstance(source.data, bytes) else Path(source.data).read_bytes()
    try:
        if raw[:4] == b"PAR1":
            from pyarrow import parquet

            file = parquet.ParquetFile(io.BytesIO(raw))
            known = file.schema_arrow
            return file.read(columns=[name for name in names if name in known.names]), known
        from pyarrow import csv

        tab = source.name.lower().endswith((".tsv", ".tab"))
        parse = csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=True)
        convert = csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
        found = csv.read_csv(io.BytesIO(raw), parse_options=parse, convert_options=convert)
        return found, found.schema
    except pyarrow.ArrowException as error:
        raise InvalidSetting([f"{source.name}: cannot be read as a table: {error}"]) from error


def _hub(name: str) -> Any:
    """A data set of the Hugging Face hub, or a sentence on the file that is not there."""
    path = Path(name)
    if path.suffix or path.is_absolute() or name.startswith((".", "~")):
        raise InvalidSetting([f"data: there is no file '{name}'{did_you_mean(path)}"])
    if importlib.util.find_spec("datasets") is None:
        raise InvalidSetting(
            [
                f"data: there is no file '{name}'{did_you_mean(path)}; to read a data set of that "
                "name from the Hugging Face hub: pip install datasets"
            ]
        )
    import datasets

    known, _, split = name.partition(":")
    try:
        return datasets.load_dataset(known, split=split or "train").data.table
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidSetting(
            [f"data: '{known}' is no file, and cannot be had from the hub: {error}"]
        ) from error


def did_you_mean(path: Path) -> str:
    """``; did you mean '...'?`` if something beside ``path`` is called almost so."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f" ('{path.parent}' is no folder either)"
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""

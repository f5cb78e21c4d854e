"""``python -m compression.show FILE``: what a saved model holds, layer by layer.

Everything comes from the file: no architecture, no task, no study.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, get_args

import click

from compression.layer_facts import Difference, Facts, differences, facts, method_text
from compression.methods import NoMethod
from compression.methods.base import Part
from compression.nested import nest_of
from compression.opened import Layer, Opened, open_file

PARTS: tuple[Part, ...] = get_args(Part)
SHOWN = 21
"""Models inside a file that are shown."""
WITHOUT_DENSE = (
    "errors in dB, the ratio, and shapes that the file alone does not tell: with --dense FILE, the "
    "dense model as save writes it (of a study: study.best names it)"
)


def as_json(file: Opened, dense: Opened | None) -> dict[str, Any]:
    """All that is known of a file, as plain data."""
    return {
        "file": file.source,
        "bytes": file.length,
        "parts": file.parts,
        "dense_bytes": dense.length if dense else None,
        "ratio": dense.length / file.length if dense else None,
        "about": dict(file.header.about),
        "layers": [asdict(facts(layer, dense)) for layer in file.layers.values()],
        "others": {name: tensor.nbytes for name, tensor in file.others.items()},
    }


def as_text(file: Opened, dense: Opened | None) -> Iterator[str]:
    """The table, totals, ratio."""
    done, rows = file.header.compression, [facts(x, dense) for x in file.layers.values()]
    yield from (f"edit  {edit}" for edit in done.edits)
    if not isinstance(done.rest, NoMethod):
        yield f"rest  {done.rest.name}: all tensors of floats that no layer's method stores"
    parts = [part for part in PARTS if part == "header" or file.parts.get(part)]
    lines = [[text(row) for _, text in _columns(parts, dense)] for row in rows]
    others = sum(tensor.nbytes for tensor in file.others.values())
    lines.append(_totals(f"{len(file.others)} other tensors", {"untouched": others}, parts, dense))
    lines.append(_totals("header", {"header": file.parts["header"]}, parts, dense))
    lines.append(_totals("file", file.parts, parts, dense))
    yield from _table([[name for name, _ in _columns(parts, dense)], *lines])
    yield f"{file.length} bytes" + (
        f", {dense.length / file.length:.2f}x smaller than the {dense.length} of {dense.source}"
        if dense
        else ""
    )
    if dense is None:
        yield WITHOUT_DENSE


def _columns(
    parts: Sequence[Part], dense: Opened | None
) -> list[tuple[str, Callable[[Facts], str]]]:
    """Heads, and what stands under them."""
    columns: list[tuple[str, Callable[[Facts], str]]] = [
        ("layer", lambda row: row.name),
        ("method", lambda row: row.method),
        ("adapter", lambda row: row.adapter),
        ("shape", lambda row: "x".join(map(str, row.shape or "?"))),
        ("bits", lambda row: _number(row.bits)),
        ("nominal", lambda row: _number(row.nominal_bits)),
        ("macs", lambda row: _number(row.macs)),
    ]
    if dense is not None:
        columns += [("dB", lambda row: _db(row.db)), ("adapted", lambda row: _db(row.adapted_db))]
    columns += [(part, _bytes_of(part)) for part in parts]
    return [*columns, ("bytes", lambda row: str(sum(row.bytes.values())))]


def _bytes_of(part: Part) -> Callable[[Facts], str]:
    return lambda row: str(row.bytes.get(part, 0))


def _totals(
    name: str, held: Mapping[Part, int], parts: Sequence[Part], dense: Opened | None
) -> list[str]:
    row = Facts(name, "", "", None, None, None, held, None)
    blank = {"shape", "bits", "nominal", "macs", "dB", "adapted"}
    return ["" if head in blank else text(row) for head, text in _columns(parts, dense)]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}" if isinstance(value, int) else f"{value:.2f}"


def _db(value: float | None) -> str:
    return "-" if value is None else "exact" if value == -math.inf else f"{value:.1f}"


def _table(rows: Sequence[Sequence[str]], left: int = 3) -> Iterator[str]:
    """Columns as wide as they need, the first ones to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def diff_text(found: Sequence[Difference]) -> Iterator[str]:
    """The layers that differ, and one line for all that do not."""
    changed = [one for one in found if one.what]
    for one in changed:
        db = "" if one.db is None else f", weights {_db(one.db)} dB apart" * (one.db > -math.inf)
        yield f"{one.name}: {'; '.join(one.what)}; {one.bytes[0]} -> {one.bytes[1]} bytes{db}"
    if same := len(found) - len(changed):
        yield f"{same} layer{'s' * (same > 1)} equal"


def levels_text(file: Opened) -> Iterator[str]:
    """The models inside, from all of it to the least; of many some, evenly."""
    nest = nest_of(file)
    cuts = [cut for _, cut in nest.cuts()]
    if len(cuts) == 1:
        yield "no layer's stored form contains a smaller one"
        return
    full, held = cuts[0].bytes, sum(_square(file.layers[name]) for name in nest.ladders)
    yield f"{len(cuts)} models, {len(nest.ladders)} of {len(file.layers)} layers go down"
    rows = [["bytes", "smaller", "dB", "layers down"]]
    for at in sorted({round(i * (len(cuts) - 1) / (SHOWN - 1)) for i in range(SHOWN)}):
        cut = cuts[at]
        db = "exact" if not cut.error else f"{10 * math.log10(cut.error / held):.1f}"
        rows.append([str(cut.bytes), f"{full / cut.bytes:.2f}x", db, str(len(cut.methods))])
    yield from _table(rows, left=0)
    yield "dB against the weights of the whole file; load(path, model, max_bytes=...) takes one"


def _square(layer: Layer) -> float:
    weight = layer.weight()
    return 0.0 if weight is None else float(weight.double().square().sum())


def levels_json(file: Opened) -> list[dict[str, Any]]:
    """All of them, as plain data."""
    return [
        {
            "bytes": cut.bytes,
            "error": cut.error,
            "methods": {name: method_text(method) for name, method in cut.methods.items()},
        }
        for _, cut in nest_of(file).cuts()
    ]


@click.command(context_settings={"max_content_width": 100})
@click.argument("file")
@click.option("--dense", metavar="FILE", help="The dense model's file: errors in dB, the ratio.")
@click.option("--diff", metavar="FILE2", help="What differs in another file, layer by layer.")
@click.option("--levels", is_flag=True, help="The smaller models that are inside the file.")
@click.option("--json", "in_json", is_flag=True, help="One line of JSON.")
def main(file: str, dense: str | None, diff: str | None, levels: bool, in_json: bool) -> None:
    """What the saved model FILE holds, layer by layer.

    Exit codes: 0 shown, 2 the input is wrong.
    """
    if levels and diff:
        raise click.UsageError("--levels and --diff: one at a time")
    try:
        truth = open_file(dense) if dense else None
        opened = open_file(file, truth)
        data: Any = None
        if levels:
            data = levels_json(opened) if in_json else None
            _say(in_json, data, () if in_json else levels_text(opened))
        elif diff:
            found = list(differences(opened, open_file(diff, truth)))
            _say(in_json, [asdict(one) for one in found], diff_text(found))
        else:
            data = as_json(opened, truth) if in_json else None
            _say(in_json, data, () if in_json else as_text(opened, truth))
    except (ValueError, OSError) as error:  # also values that no method decodes
        fail(error)


def _say(in_json: bool, data: Any, lines: Iterable[str]) -> None:
    click.echo(json.dumps(_finite(data)) if in_json else "\n".join(lines))


def _finite(data: Any) -> Any:
    """JSON has no infinity: it is written as text."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def fail(error: Exception) -> NoReturn:
    """Say what is wrong, a line each, and end with 2."""
    if isinstance(error, OSError):
        click.echo(f"{error.filename}: {error.strerror}", err=True)
    else:
        click.echo(str(error), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()

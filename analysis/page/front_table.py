"""The front's table as data: for each cell what it shows, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from analysis import units
from analysis.columns import RELATIVE, TIMED, Point
from analysis.findings import Findings
from analysis.markup import typed
from trainables.record import Status

__all__ = ["front_table"]


@dataclass(frozen=True)
class Cell:
    """``text`` is shown, ``key`` sorts, ``link`` leads somewhere; a cell of code can be copied."""

    text: str
    key: float | str | None = None
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table. ``about`` says what it holds, ``code`` shows it as something to type.

    A column is left out where no point of the front has anything to say in it.
    """

    head: str
    about: str
    of: Callable[[Point, Findings], Cell]
    code: bool = False


def front_table(found: Findings) -> dict[str, Any]:
    """Columns with at least one cell that is not empty, and a row a point."""
    cells = {column: [column.of(point, found) for point in found.front] for column in COLUMNS}
    shown = {column: of for column, of in cells.items() if any(cell.text for cell in of)}
    return {
        "columns": [{"head": c.head, "about": c.about, "code": c.code} for c in shown],
        "rows": [
            [[cell.text, cell.key, cell.link] for cell in row]
            for row in zip(*shown.values(), strict=True)
        ],
        "ids": [point.values["trial_id"] for point in found.front],
    }


def _text(name: str) -> Callable[[Point, Findings], Cell]:
    return lambda point, _: Cell(str(point.values.get(name) or ""), str(point.values.get(name)))


def _number(name: str, form: str) -> Callable[[Point, Findings], Cell]:
    def cell(point: Point, _: Findings) -> Cell:
        value = point.number(name)
        return Cell("") if value is None else Cell(form.format(value), value)

    return cell


def _score(split: str) -> Callable[[Point, Findings], Cell]:
    def cell(point: Point, found: Findings) -> Cell:
        value = point.number(f"{split}_{found.y.name.removeprefix('val_')}")
        return Cell("") if value is None else Cell(units.value(found.y, value), value)

    return cell


def _over_seeds(split: str) -> Callable[[Point, Findings], Cell]:
    def cell(point: Point, found: Findings) -> Cell:
        mean, low, high = (point.number(f"{split}_{part}") for part in ("mean", "low", "high"))
        if mean is None:
            return Cell("")
        text = units.value(found.y, mean)
        if low is not None and high is not None:
            text += f" [{units.value(found.y, low)}, {units.value(found.y, high)}]"
        return Cell(text, mean)

    return cell


def _test(point: Point, found: Findings) -> Cell:
    """The score with its 90% interval against dense."""
    cell = _score("test")(point, found)
    if point.dense is None or not isinstance(cell.key, float):
        return cell
    worst, best = (units.value(found.y, end) for end in point.dense.around(cell.key, found.y))
    return Cell(f"{cell.text} [{worst}, {best}]", cell.key)


def _drop(point: Point, found: Findings) -> Cell:
    drop = point.number("drop")
    return Cell(units.difference(found.y, drop), drop)


def _bound(point: Point, found: Findings) -> Cell:
    bound, share = point.number("drop_upper"), point.number(RELATIVE)
    beside = "" if share is None else f" ({100 * share:.2f}% of dense's)"
    return Cell(units.difference(found.y, bound) + beside, bound)


def _recovered(point: Point, found: Findings) -> Cell:
    drop = point.number("drop_vs_recovered")
    return Cell(units.difference(found.y, drop), drop)


def _flips(point: Point, _: Findings) -> Cell:
    pair = point.verification.paired.get("dense") if point.verification else None
    if pair is None:
        return Cell("")
    share = pair.flips / pair.n
    return Cell(f"{100 * share:.2f}%", share)


def _tested(name: str) -> Callable[[Point, Findings], Cell]:
    """A further test metric, a fraction, where the task has it."""

    def cell(point: Point, _: Findings) -> Cell:
        value = point.verification.metrics.get(name) if point.verification else None
        return Cell("") if value is None else Cell(f"{100 * value:.2f}%", value)

    return cell


def _parts(point: Point, _: Findings) -> Cell:
    size = point.outcome.size
    if size is None:
        return Cell("")
    parts = {name: count for name, count in vars(size.model).items() if count}
    return Cell(", ".join(f"{name} {count:,}" for name, count in parts.items()), size.file_bytes)


def _epochs(point: Point, _: Findings) -> Cell:
    stopped = " (stopped)" if point.outcome.status is Status.STOPPED else ""
    return Cell(f"{point.outcome.epochs_done}{stopped}", float(point.outcome.epochs_done))


def _verified(point: Point, _: Findings) -> Cell:
    text = "yes" if point.values["verified"] else "no"
    problems = point.verification.problems if point.verification else ()
    return Cell("; ".join([text, *problems]), text)


def _runs_in(point: Point, _: Findings) -> Cell:
    found = point.verification.runs_in if point.verification else {}
    return Cell("; ".join(f"{name}: {how}" for name, how in found.items()))


def _artifact(point: Point, found: Findings) -> Cell:
    path, at = str(point.values["artifact"] or ""), found.study_at
    name = path.rpartition("/")[2].removesuffix(".safetensors")
    return Cell(name, path, f"{at}/{path}" if path and at else "")


def _run(point: Point, found: Findings) -> Cell:
    """Its id, with a link to it; where that is not known what finds it in MLflow's search box."""
    trial_id = str(point.values["trial_id"])
    if link := found.study.runs.get(trial_id):
        return Cell(link.rpartition("/")[2], "", link)
    return Cell(f"tags.`paretune.trial` = '{trial_id}'", "")


def _again(point: Point, found: Findings) -> Cell:
    """By the study's name: where it stands is not for everyone who reads the page."""
    where = f" --study {name}" if (name := typed(found.study.name)) else ""
    return Cell(f"python -m study.replay {point.values['trial_id']}{where}", "")


def _columns() -> Iterator[Column]:
    about = "Method, init and adapter; all else a hover over the plot tells."
    yield Column("setting", about, _text("setting"))
    yield Column(
        "test",
        "On test, with the 90% interval of its paired drop against dense.",
        _test,
    )
    yield Column("drop", "How much worse than dense on the same test examples.", _drop)
    yield Column("file bytes", "Length of the file.", _number("file_bytes", "{:,.0f}"))
    yield Column("ratio", "File of the dense model / this file.", _number("ratio", "{:.3g}×"))
    yield Column("verified", "Whether file, bytes, logits and metric agree.", _verified)
    yield Column("file", "By its trial's id, in the study's folder.", _artifact)
    yield Column("bound", "One-sided 95% upper bound of the drop.", _bound)
    yield Column("vs recovered", "Drop against dense with the same recovery.", _recovered)
    yield Column(
        "validation", "On validation, by which points are chosen: flattered.", _score("val")
    )
    yield Column("validation, seeds", "Mean over seeds, 95% interval.", _over_seeds("val"))
    yield Column("test, seeds", "Mean over seeds, 95% interval.", _over_seeds("test"))
    yield Column(
        "stays", "How often on the front with other seeds.", _number("probability", "{:.2f}")
    )
    yield Column("flips", "Test examples that dense predicts otherwise.", _flips)
    yield Column(
        "worst class",
        "Largest drop in the share found of a class, against dense.",
        _tested("worst_class_drop"),
    )
    yield Column("calibration", "Expected calibration error.", _tested("calibration_error"))
    yield Column("epochs", "Done.", _epochs)
    yield Column("layer ratio", "Compressed layers only.", _number("layer_ratio", "{:.3g}×"))
    yield Column("nominal", "Values only.", _number("nominal_ratio", "{:.3g}×"))
    yield Column(
        "vs fp16", "File of dense in half precision / this.", _number("ratio_vs_fp16", "{:.3g}×")
    )
    yield Column("bytes by part", "What the file's bytes hold.", _parts)
    yield Column("macs", "Multiply-adds of one example.", _number("macs", "{:,.0f}"))
    yield Column("latency ms", "One example, by the table.", _number("latency_ms", "{:.3g}"))
    yield Column(
        "verified latency ms", "One example, timed alone when verified.", _number(TIMED, "{:.3g}")
    )
    yield Column("runs in", "Layers that other runtimes keep packed.", _runs_in)
    yield Column(
        "MLflow run", "A link, or what to type into the search of MLflow's runs.", _run, code=True
    )
    yield Column("run it again", "And compare with the record.", _again, code=True)


COLUMNS = tuple(_columns())

"""Writes a study's report: `front.csv`, `front.png`, `summary.md`."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from pyarrow import fs

from analysis import fronts, summary
from analysis.columns import AXES, Axis, Point, front, points, y_objective
from analysis.load import StudyData, StudyDataError
from analysis.plots import Picture, draw, png
from analysis.stats import certify
from trainables.record import Objective, Status

__all__ = ["FORMATS", "Findings", "ReportPaths", "findings", "front", "write_report"]

FORMATS = ("csv", "png", "md")


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report are; None for a format that was not asked for."""

    csv: str | None = None
    png: str | None = None
    md: str | None = None


@dataclass(frozen=True)
class Findings:
    """What a report says, before it is written down.

    ``chosen`` is the smallest model within ``margin`` of dense on validation; ``certified`` that on
    the front whose test drop is certified within it. ``skipped`` are front points that were not
    tested and so take no part in certification.
    """

    study: StudyData
    axis: Axis
    y: Objective
    front: tuple[Point, ...]
    others: tuple[Point, ...]
    baselines: dict[str, Point]
    knee: Point | None
    chosen: Point | None
    certified: Point | None
    failed_first: Point | None
    skipped: int
    margin: float = 0.01


def findings(
    study: StudyData, x: str = "ratio", y: str | None = None, margin: float = 0.01
) -> Findings:
    """Front, knee, choice and certificate of a study.

    Raises:
        StudyDataError: No finished trial with an artifact, or a metric that no trial has.
    """
    axis, objective = AXES[x], y_objective(study, y)
    members = front(study.rows, x, objective)
    if not members:
        raise StudyDataError(_nothing(study, x, objective))
    on_front = {id(row) for row in members}
    others = [r for r in study.rows if r.role == "search" and id(r) not in on_front]
    drawn = points(study, members, objective.name)
    roles = [r for r in study.rows if r.role != "search" and r.record.outcome.metrics]
    baselines = dict(
        zip([r.role for r in roles], points(study, roles, objective.name), strict=True)
    )
    tested = [p for p in drawn if p.values["verified"] and p.paired("dense")]
    passed = certify([pair for p in tested if (pair := p.paired("dense"))], margin)
    return Findings(
        study,
        axis,
        objective,
        tuple(drawn),
        tuple(points(study, [r for r in others if r.record.outcome.metrics], objective.name)),
        baselines,
        _knee(drawn, axis, objective),
        _chosen(drawn, baselines.get("dense"), objective, margin),
        tested[passed - 1] if passed else None,
        tested[passed] if passed < len(tested) else None,
        len(drawn) - len(tested),
        margin,
    )


def _nothing(study: StudyData, x: str, y: Objective) -> str:
    searched = [r for r in study.rows if r.role == "search"]
    where = study.location or study.name
    if not searched:
        return f"{where}: no finished trial yet, only baselines; let the study run"
    found = Counter(r.record.outcome.status for r in searched)
    causes = Counter(r.record.outcome.error for r in searched if r.record.outcome.error)
    if found[Status.FAILED] == len(searched):
        cause, count = causes.most_common(1)[0]
        return f"{where}: no trial finished: all {len(searched)} failed, {count} of them: {cause}"
    return f"{where}: none of {len(searched)} trials has an artifact with both {x} and {y.name}"


def _losses(drawn: Collection[Point], axis: Axis, y: Objective) -> np.ndarray:
    pairs = [(p.number(axis.name) or 0.0, p.number(y.name) or 0.0) for p in drawn]
    return np.array([(axis.objective.loss(np.log2(a)), y.loss(b)) for a, b in pairs])


def _knee(drawn: list[Point], axis: Axis, y: Objective) -> Point | None:
    at = fronts.knee(_losses(drawn, axis, y))
    return None if at is None else drawn[at]


def _chosen(drawn: list[Point], dense: Point | None, y: Objective, margin: float) -> Point | None:
    limit = dense.number(y.name) if dense else None
    if limit is None:
        return None
    # Accuracies are counts / n: the slack keeps a drop of exactly the margin within it.
    within = [p for p in drawn if y.loss(p.number(y.name) or 0.0) - y.loss(limit) <= margin + 1e-12]
    return within[-1] if within else None


def write_report(
    study: StudyData,
    filesystem: fs.FileSystem,
    folder: str,
    x: str = "ratio",
    y: str | None = None,
    formats: Collection[str] = FORMATS,
) -> ReportPaths:
    """Write the report; every file is made before the first is written.

    Args:
        study: As :func:`analysis.load.load_study` gives it.
        filesystem: Where to write.
        folder: Path on ``filesystem``; made if absent.
        x: A name of :data:`analysis.columns.AXES`.
        y: A metric of the validation split; the study's first objective by default.
        formats: Of :data:`FORMATS`.

    Raises:
        StudyDataError: Nothing to report, or the folder cannot be written.
    """
    found = findings(study, x, y)
    makers = {
        "csv": lambda: table(found).encode(),
        "png": lambda: png(draw(picture(found))),
        "md": lambda: summary.write(found).encode(),
    }
    names = {"csv": "front.csv", "png": "front.png", "md": "summary.md"}
    made = {kind: makers[kind]() for kind in FORMATS if kind in formats}
    paths = {kind: f"{folder}/{names[kind]}" for kind in made}
    try:
        filesystem.create_dir(folder, recursive=True)
        for kind, content in made.items():
            _write(filesystem, paths[kind], content)
    except OSError as error:
        raise StudyDataError(f"{folder}: the report cannot be written: {error}") from error
    return ReportPaths(**paths)


def _write(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    aside = f"{path}.part"
    with filesystem.open_output_stream(aside) as stream:
        stream.write(content)
    filesystem.move(aside, path)


def table(found: Findings) -> str:
    """The front as CSV, a line a point, the largest file first; what was not measured is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(found.front[0].values), lineterminator="\n")
    writer.writeheader()
    writer.writerows(point.values for point in found.front)
    return buffer.getvalue()


def picture(found: Findings) -> Picture:
    """What :func:`analysis.plots.draw` needs."""
    searched = sum(row.role == "search" for row in found.study.rows)
    n = next((pair.n for p in found.front if (pair := p.paired("dense"))), None)
    parts = [
        summary.counted(searched, "trial"),
        f"{len(found.front)} on the front (chosen on validation)",
    ]
    parts.append(f"n = {n} test examples" if n else "not scored on test")
    notes = []
    if found.certified:
        size = summary.short(found.certified, found.axis)
        notes = [(found.certified, f"{size}, certified within {100 * found.margin:g} pp")]
    task = str(found.study.info.get("task") or found.study.name)
    return Picture(
        f"{task}: {found.y.name.removeprefix('val_').replace('_', ' ')} against size",
        ", ".join(parts),
        found.axis,
        found.y,
        found.front,
        [p for p in found.others if p.number(found.axis.name) is not None],
        {k: p for k, p in found.baselines.items() if p.number(found.axis.name) is not None},
        notes,
        found.margin,
    )

"""Writes a study's report: `front.csv`, `front.png`, `summary.md`, `published.csv` if asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass

from pyarrow import fs

from analysis import summary, units
from analysis.findings import Findings, findings
from analysis.load import StudyData, StudyDataError
from analysis.masking import cell
from analysis.plots import Picture, draw, png
from analysis.published import exported

__all__ = ["FORMATS", "ReportPaths", "write_report"]

FORMATS = ("csv", "png", "md")
NAMES = {
    "csv": "front.csv",
    "png": "front.png",
    "md": "summary.md",
    "published": "published.csv",
}


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report are; None for a format that was not asked for."""

    csv: str | None = None
    png: str | None = None
    md: str | None = None
    published: str | None = None


def write_report(
    study: StudyData,
    filesystem: fs.FileSystem,
    folder: str,
    x: str = "ratio",
    y: str | None = None,
    formats: Collection[str] = FORMATS,
    published: Collection[str] | None = None,
) -> ReportPaths:
    """Write the report; every file is made before the first is written.

    Args:
        study: As :func:`analysis.load.load_study` gives it.
        filesystem: Where to write.
        folder: Path on ``filesystem``; made if absent.
        x: A name of :data:`analysis.columns.AXES`.
        y: A metric of the validation split; the study's first objective by default.
        formats: Of :data:`FORMATS`.
        published: Systems of :data:`analysis.published.SYSTEMS`, instead of the study's own.

    Raises:
        StudyDataError: Nothing to report, or the folder cannot be written.
    """
    found = findings(study, x, y, published=published)
    makers = {
        "csv": lambda: table(found).encode(),
        "png": lambda: png(draw(picture(found))),
        "md": lambda: summary.write(found).encode(),
    }
    made = {kind: makers[kind]() for kind in FORMATS if kind in formats}
    if found.published and "csv" in formats:
        made["published"] = exported(found.published).encode()
    paths = {kind: f"{folder}/{NAMES[kind]}" for kind in made}
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
    rows = ({name: cell(value) for name, value in p.values.items()} for p in found.front)
    writer.writerows(rows)
    return buffer.getvalue()


def picture(found: Findings) -> Picture:
    """What :func:`analysis.plots.draw` needs."""
    searched = sum(row.role == "search" for row in found.study.rows)
    tested = next((p.dense for p in found.front if p.dense), None)
    parts = [
        summary.counted(searched, "trial"),
        f"{len(found.front)} on the front (chosen on validation)",
    ]
    parts.append(f"tested on {tested.sample}" if tested else "not scored on test")
    notes = []
    if found.certified:
        size = summary.short(found.certified, found.axis)
        margin = units.margin_of(found.y, found.margin, short=True)
        notes = [(found.certified, f"{size}, certified within {margin}")]
    task = str(found.study.info.get("task") or found.study.name)
    return Picture(
        f"{task}: {units.name(found.y)} against size",
        ", ".join(parts),
        found.axis,
        found.y,
        found.front,
        [p for p in found.others if p.number(found.axis.name) is not None],
        {k: p for k, p in found.baselines.items() if p.number(found.axis.name) is not None},
        notes,
        found.margin,
        found.published,
    )

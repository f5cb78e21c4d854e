"""Writes a study's report: a page, a summary, pictures and tables, each in its formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import quote

from matplotlib.figure import Figure
from pyarrow import fs

from analysis import summary, units
from analysis.charts import CHARTS, Chart
from analysis.charts import pictures as chart_pictures
from analysis.charts.elsewhere import published_elsewhere
from analysis.charts.tables import as_csv, as_parquet
from analysis.charts.trade import three_objectives
from analysis.columns import Value
from analysis.figure_files import png, svg
from analysis.findings import Findings, findings
from analysis.formats import DEFAULT, FORMATS
from analysis.load import StudyData, open_folder
from analysis.notes import certified_note
from analysis.objectives import Trade, trade
from analysis.page.contents import contents
from analysis.page.document import as_json, document
from analysis.plots import Picture, draw
from analysis.published import exported
from analysis.report_files import put
from analysis.trials import trials, written

__all__ = ["ReportPaths", "write_findings", "write_report"]

CHART_FOLDER, PUBLISHED, TRIALS, TRADED = "charts", "published.csv", "trials", "objectives"
ELSEWHERE = "published"
Files = Mapping[str, bytes]
Rows = Sequence[Mapping[str, Value]]


@dataclass(frozen=True)
class ReportPaths:
    """Where the main file of each format is; None for a format that was not asked for.

    ``charts`` is the folder of all charts but the front, in all formats that they have.
    """

    html: str | None = None
    csv: str | None = None
    png: str | None = None
    md: str | None = None
    json: str | None = None
    svg: str | None = None
    parquet: str | None = None
    published: str | None = None
    charts: str | None = None


@dataclass(frozen=True)
class _Report:
    """Findings with what several formats are made of, each made once."""

    found: Findings
    traded: Trade | None = None

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """Those that have something to show."""
        made = {name: maker(self.found) for name, maker in CHARTS.items()}
        made[ELSEWHERE] = published_elsewhere(self.found)
        if self.traded:
            made = {TRADED: three_objectives(self.traded), **made}
        return {name: chart for name, chart in made.items() if chart is not None}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The front, and the charts, by the paths of their files without the ending."""
        drawn = {_chart(name): chart_pictures.draw(chart) for name, chart in self.charts.items()}
        return {"front": draw(picture(self.found)), **drawn}

    @cached_property
    def tables(self) -> dict[str, Rows]:
        """The front, all trials, and the charts, as rows; named as :attr:`figures`."""
        drawn: dict[str, Rows] = {
            _chart(name): list(chart.rows()) for name, chart in self.charts.items()
        }
        front: Rows = [written(point, self.found) for point in self.found.front]
        members: Mapping[str, Rows] = {TRADED: list(self.traded.members())} if self.traded else {}
        return {"front": front, TRIALS: list(trials(self.found)), **members, **drawn}


def _chart(name: str) -> str:
    return f"{CHART_FOLDER}/{name}"


def _page(report: _Report) -> Files:
    return {FORMATS["html"]: document(contents(report.found, report.charts))}


def _json(report: _Report) -> Files:
    return {FORMATS["json"]: as_json(contents(report.found, report.charts))}


def _summary(report: _Report) -> Files:
    return {FORMATS["md"]: summary.write(report.found).encode()}


def _csv(report: _Report) -> Files:
    files = {f"{name}.csv": as_csv(rows) for name, rows in report.tables.items()}
    if report.found.published:
        files[PUBLISHED] = exported(report.found.published).encode()
    return files


MAKERS: Mapping[str, Callable[[_Report], Files]] = {
    "html": _page,
    "csv": _csv,
    "png": lambda report: {f"{k}.png": png(figure) for k, figure in report.figures.items()},
    "md": _summary,
    "json": _json,
    "svg": lambda report: {f"{k}.svg": svg(figure) for k, figure in report.figures.items()},
    "parquet": lambda report: {f"{k}.parquet": as_parquet(t) for k, t in report.tables.items()},
}


def write_report(
    study: StudyData,
    filesystem: fs.FileSystem,
    folder: str,
    x: str = "ratio",
    y: str | None = None,
    formats: Collection[str] = DEFAULT,
    published: Collection[str] | None = None,
    objectives: Sequence[str] = (),
) -> ReportPaths:
    """Write the report of a study.

    Args:
        study: As :func:`analysis.load.load_study` gives it.
        filesystem: Where to write.
        folder: Path on ``filesystem``; made if absent.
        x: A name of :data:`analysis.columns.SIZES`.
        y: A metric of the validation split; the study's first objective by default.
        formats: Of :data:`analysis.formats.FORMATS`.
        published: Systems of :data:`analysis.published.SYSTEMS`, instead of the study's own.
        objectives: Three, as :func:`analysis.objectives.trade` takes them: the front over them,
            too.

    Raises:
        StudyDataError: Nothing to report, or the folder cannot be written.
    """
    found = findings(study, x, y, published=published)
    traded = trade(study, objectives) if objectives else None
    return write_findings(found, filesystem, folder, formats, traded)


def write_findings(
    found: Findings,
    filesystem: fs.FileSystem,
    folder: str,
    formats: Collection[str] = DEFAULT,
    traded: Trade | None = None,
) -> ReportPaths:
    """Write down what was found; every file is made before the first is written.

    Raises:
        StudyDataError: The folder cannot be written.
    """
    report = _Report(replace(found, study_at=_way(found.study, folder)), traded)
    files: dict[str, bytes] = {}
    for kind in FORMATS:
        if kind in formats:
            files |= MAKERS[kind](report)
    put(filesystem, folder, files)
    paths = {kind: f"{folder}/{FORMATS[kind]}" for kind in FORMATS if kind in formats}
    if PUBLISHED in files:
        paths["published"] = f"{folder}/{PUBLISHED}"
    if any(name.startswith(f"{CHART_FOLDER}/") for name in files):
        paths["charts"] = f"{folder}/{CHART_FOLDER}"
    return ReportPaths(**paths)


def _way(study: StudyData, folder: str) -> str | None:
    """From a report's folder to its study's, for a link; None between disks, or by the root.

    Such a way would tell every reader of the page where on this machine the study stands.
    """
    if not study.location:
        return None
    _, place = open_folder(study.location)
    if folder == f"{place}/report":
        return ".."
    apart = "://" in study.location or not os.path.isabs(folder)
    if apart or os.path.commonpath([place, folder]) == os.path.sep:
        return None
    return quote(os.path.relpath(place, folder))


def picture(found: Findings) -> Picture:
    """What :func:`analysis.plots.draw` needs."""
    searched = sum(row.role == "search" for row in found.study.rows)
    tested = next((p.dense for p in found.front if p.dense), None)
    parts = [
        units.counted(searched, "trial"),
        f"{len(found.front)} on the front (chosen on validation)",
    ]
    parts.append(f"tested on {tested.sample}" if tested else "not scored on test")
    notes = []
    if found.certified:
        notes = [(found.certified, certified_note(found.certified, found))]
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

"""Draws the Pareto front of a study: `python analysis/pareto.py [STUDY ...]`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import click

from analysis.answering import Answering, answer, fail
from analysis.columns import SIZES
from analysis.formats import DEFAULT, FORMATS
from analysis.front_text import front_text
from analysis.load import (
    DEFAULT_STORAGE,
    StudyData,
    StudyDataError,
    find_study,
    load_study,
    open_folder,
)
from analysis.markup import spans
from analysis.masking import printable
from analysis.objectives import trade, wrong_names
from analysis.published import SYSTEMS, check_systems
from analysis.telling import told

NONE = "none"


def _formats(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise click.BadParameter(f"{', '.join(unknown)}: expected some of {','.join(FORMATS)}")
    return names


def _systems(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...] | None:
    """None where the study's own are to be shown."""
    if NONE in value and len(value) > 1:
        raise click.BadParameter(f"{NONE} is no system to be shown beside others")
    try:
        return check_systems(() if NONE in value else value) if value else None
    except StudyDataError as error:
        raise click.BadParameter(str(error)) from None


def _objectives(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if value is not None and (found := wrong_names(names)):
        raise click.BadParameter("; ".join(found))
    return names


@click.command(cls=Answering)
@click.argument("studies", metavar="[STUDY ...]", nargs=-1)
@click.option("--tracking-uri", help="MLflow store to read from where there is no such folder.")
@click.option("--x", type=click.Choice(list(SIZES)), default="ratio", show_default=True)
@click.option("--y", help="Validation metric, as val_accuracy.  [default: the study's]")
@click.option(
    "--format",
    "formats",
    default=",".join(DEFAULT),
    callback=_formats,
    show_default=True,
    help=f"Some of {','.join(FORMATS)}.",
)
@click.option(
    "--published",
    multiple=True,
    callback=_systems,
    metavar="NAME",
    help=f"Published points to show: {', '.join(SYSTEMS)} or {NONE}; repeatable."
    "  [default: the study's]",
)
@click.option("--output", help="Folder or URI to write to.  [default: STUDY/report]")
@click.option(
    "--objectives",
    callback=_objectives,
    metavar="A,B,C",
    help="The front over three objectives, too: metrics, sizes, latency_ms.",
)
@click.option("--compare", is_flag=True, help="Hold the studies against each other instead.")
@click.option(
    "--normalise",
    is_flag=True,
    help="With --compare: hold each metric against the study's own dense model, so that tasks, "
    "splits and baselines may differ.",
)
@click.option("--quiet", is_flag=True, help="Say nothing of progress.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on standard output.")
@click.pass_context
def main(
    context: click.Context,
    studies: tuple[str, ...],
    tracking_uri: str | None,
    x: str,
    y: str | None,
    formats: tuple[str, ...],
    published: tuple[str, ...] | None,
    output: str | None,
    objectives: tuple[str, ...],
    compare: bool,
    normalise: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the report of each STUDY: a folder, a URI or a name in ./results; the newest if none.

    Exit codes: 0 done, 2 the input is wrong.
    """
    _check_together(context, compare)
    say = _silent if quiet else partial(click.echo, err=True)
    try:
        with told(say, "reading"):
            loaded = [_load(study, tracking_uri) for study in studies or (None,)]
        if compare:
            folder = _folder(loaded[0], output, False)
            with told(say, f"comparing {len(loaded)} studies"):
                files = _compare(loaded, y, normalise, formats, folder)
            _show(_Written("", files), as_json)
            return
        folders = [_folder(study, output, len(loaded) > 1) for study in loaded]
        _check_apart(loaded, folders)
        written = []
        for study, folder in zip(loaded, folders, strict=True):
            with told(say, printable(f"writing the report of {study.name}")):
                written.append(_report(study, x, y, formats, published, objectives, folder))
            if not as_json:
                _show(written[-1], False)
        if as_json:
            reports = [
                {"study": w.study, "headline": w.headline, "report": w.files} for w in written
            ]
            answer({"exit_code": 0, "reports": reports})
    except StudyDataError as error:
        fail(2, str(error).splitlines())


@dataclass(frozen=True)
class _Written:
    """What was written of a study, or of a comparison: ``table`` is printed, too."""

    table: str
    files: Mapping[str, str]
    study: str = ""
    headline: str = ""


def _silent(line: str) -> None:
    """Nothing is said."""


def _show(written: _Written, as_json: bool) -> None:
    if as_json:
        return answer({"exit_code": 0, "comparison": dict(written.files)})
    if written.table:
        click.echo(written.table)
    for kind, path in written.files.items():
        click.echo(f"{kind}: {path}")


def _check_together(context: click.Context, compare: bool) -> None:
    """Refuse options that say nothing beside the others."""
    unused = ("x", "published", "objectives") if compare else ("normalise",)
    given = [f"--{name}" for name in unused if _given(context, name)]
    if given:
        beside = "beside" if compare else "without"
        raise click.UsageError(f"{', '.join(given)}: means nothing {beside} --compare")


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _load(study: str | None, tracking_uri: str | None) -> StudyData:
    if location := find_study(study):
        return load_study(location)
    if tracking_uri:
        from analysis.tracked import load_tracked

        return load_tracked(tracking_uri, study)
    if study:
        raise StudyDataError(
            f"{study}: no such study, neither as a folder nor in {DEFAULT_STORAGE}/"
        )
    raise StudyDataError(f"no study in ./{DEFAULT_STORAGE}; run one first: python -m study.run")


def _folder(study: StudyData, output: str | None, several: bool) -> str:
    if output and several:
        return f"{output}/{study.name}"
    folder = output or f"{study.location or study.name}/report"
    if not output and os.path.islink(folder):  # a study may come from somebody else
        raise StudyDataError(f"{folder} is a link: nothing is written through links; remove it")
    return folder


def _check_apart(studies: Sequence[StudyData], folders: Sequence[str]) -> None:
    """Refuse reports of which one would overwrite another."""
    for folder in sorted({folder for folder in folders if folders.count(folder) > 1}):
        same = [
            s.location or s.name for s, at in zip(studies, folders, strict=True) if at == folder
        ]
        raise StudyDataError(
            f"{folder}: the reports of {' and '.join(same)} would overwrite each other there; "
            "write each by a command of its own, with another --output"
        )


def _report(
    study: StudyData,
    x: str,
    y: str | None,
    formats: tuple[str, ...],
    published: tuple[str, ...] | None,
    objectives: tuple[str, ...],
    folder: str,
) -> _Written:
    from analysis.findings import findings
    from analysis.report import write_findings  # matplotlib, not needed for --help
    from analysis.summary import headline

    filesystem, path = open_folder(folder)
    found = findings(study, x, y, published=published)
    traded = trade(study, objectives) if objectives else None
    paths = write_findings(found, filesystem, path, formats, traded)
    files = {kind: path for kind, path in vars(paths).items() if path}
    said = "".join(words for _, words in spans(headline(found)))
    table = front_text((point.values for point in found.front), found.y)
    return _Written(table, files, study.name, said)


def _compare(
    studies: list[StudyData],
    y: str | None,
    normalise: bool,
    formats: tuple[str, ...],
    folder: str,
) -> Mapping[str, str]:
    from analysis.studies.files import write_comparison  # matplotlib, not needed for --help

    filesystem, path = open_folder(folder)
    return write_comparison(studies, filesystem, path, y, normalise, formats)


if __name__ == "__main__":
    main()

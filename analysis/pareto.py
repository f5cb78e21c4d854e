"""Draws the Pareto front of a study: `python analysis/pareto.py [STUDY ...]`."""

from __future__ import annotations

import sys

import click

from analysis.columns import AXES
from analysis.load import (
    DEFAULT_STORAGE,
    StudyData,
    StudyDataError,
    find_study,
    load_study,
    open_folder,
)
from analysis.masking import sayable
from analysis.published import SYSTEMS, check_systems

FORMATS = ("csv", "png", "md")
NONE = "none"


def _formats(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
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


@click.command()
@click.argument("studies", metavar="[STUDY ...]", nargs=-1)
@click.option("--tracking-uri", help="MLflow store to read from where there is no such folder.")
@click.option("--x", type=click.Choice(list(AXES)), default="ratio", show_default=True)
@click.option("--y", help="Validation metric, as val_accuracy.  [default: the study's]")
@click.option("--format", "formats", default="csv,png,md", show_default=True, callback=_formats)
@click.option(
    "--published",
    multiple=True,
    callback=_systems,
    metavar="NAME",
    help=f"Published points to show: {', '.join(SYSTEMS)} or {NONE}; repeatable."
    "  [default: the study's]",
)
@click.option("--output", help="Folder or URI to write to.  [default: STUDY/report]")
def main(
    studies: tuple[str, ...],
    tracking_uri: str | None,
    x: str,
    y: str | None,
    formats: tuple[str, ...],
    published: tuple[str, ...] | None,
    output: str | None,
) -> None:
    """Write the report of each STUDY: a folder, a URI or a name in ./results; the newest if none.

    Exit codes: 0 done, 2 the input is wrong.
    """
    try:
        loaded = [_load(study, tracking_uri) for study in studies or (None,)]
        for study in loaded:
            folder = _folder(study, output, len(loaded) > 1)
            _report(study, x, y, formats, published, folder)
    except StudyDataError as error:
        click.echo(f"error: {sayable(str(error))}", err=True)
        sys.exit(2)


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
    return output or f"{study.location or study.name}/report"


def _report(
    study: StudyData,
    x: str,
    y: str | None,
    formats: tuple[str, ...],
    published: tuple[str, ...] | None,
    folder: str,
) -> None:
    from analysis.report import write_report  # matplotlib, not needed for --help

    filesystem, path = open_folder(folder)
    paths = write_report(study, filesystem, path, x, y, formats, published)
    for kind, written in vars(paths).items():
        if written:
            click.echo(f"{kind}: {written}")


if __name__ == "__main__":
    main()

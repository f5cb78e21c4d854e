"""Draws the Pareto front of a study: `python analysis/pareto.py [STUDY ...]`."""

from __future__ import annotations

import sys

import click

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
from analysis.masking import sayable
from analysis.objectives import trade, wrong_names
from analysis.published import SYSTEMS, check_systems

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


def _objectives(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if value is not None and (found := wrong_names(names)):
        raise click.BadParameter("; ".join(found))
    return names


@click.command()
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
) -> None:
    """Write the report of each STUDY: a folder, a URI or a name in ./results; the newest if none.

    Exit codes: 0 done, 2 the input is wrong.
    """
    _check_together(context, compare)
    try:
        loaded = [_load(study, tracking_uri) for study in studies or (None,)]
        if compare:
            _compare(loaded, y, normalise, formats, _folder(loaded[0], output, False))
            return
        for study in loaded:
            folder = _folder(study, output, len(loaded) > 1)
            _report(study, x, y, formats, published, objectives, folder)
    except StudyDataError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {sayable(line)}", err=True)
        sys.exit(2)


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
    return output or f"{study.location or study.name}/report"


def _report(
    study: StudyData,
    x: str,
    y: str | None,
    formats: tuple[str, ...],
    published: tuple[str, ...] | None,
    objectives: tuple[str, ...],
    folder: str,
) -> None:
    from analysis.findings import findings
    from analysis.report import write_findings  # matplotlib, not needed for --help

    filesystem, path = open_folder(folder)
    found = findings(study, x, y, published=published)
    traded = trade(study, objectives) if objectives else None
    paths = write_findings(found, filesystem, path, formats, traded)
    click.echo(front_text((point.values for point in found.front), found.y))
    for kind, written in vars(paths).items():
        if written:
            click.echo(f"{kind}: {written}")


def _compare(
    studies: list[StudyData],
    y: str | None,
    normalise: bool,
    formats: tuple[str, ...],
    folder: str,
) -> None:
    from analysis.studies.files import write_comparison  # matplotlib, not needed for --help

    filesystem, path = open_folder(folder)
    paths = write_comparison(studies, filesystem, path, y, normalise, formats)
    for kind, written in paths.items():
        click.echo(f"{kind}: {written}")


if __name__ == "__main__":
    main()

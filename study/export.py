"""``python -m study.export TRIAL --to onnx``: a model of a study as a file for another runtime.

What is heavy is imported late: a wrong option is told at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.answering import Answering, answer, fail
from analysis.load import DEFAULT_STORAGE
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import find, find_trial, read
from study.front.asked import Asked, asking, pick

if TYPE_CHECKING:
    from compression.export import Exporter
    from study.front.exporting import Chosen


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.argument("which", metavar="STUDY_OR_TRIAL", required=False)
@click.option("--to", metavar="TARGET", help="onnx, compressed-tensors or pyfunc.")
@click.option("--output", metavar="DIR", help="Where to write; by default ./export/TRIAL-TARGET.")
@click.option("--opset", type=int, help="Version of ONNX.")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=256,
    help="Validation examples to compare outputs on.",
)
@asking
@click.option("--study", "within", metavar="STUDY", help="The study that a trial is of.")
@click.option("--storage", metavar="URI", default=DEFAULT_STORAGE, help="That holds the studies.")
@click.option("--list", "listing", is_flag=True, help="Which runtime runs which method packed.")
@click.option("--json", "in_json", is_flag=True, help="One line of JSON.")
def main(
    which: str | None,
    to: str | None,
    output: str | None,
    opset: int | None,
    examples: int,
    asked: Asked,
    within: str | None,
    storage: str,
    listing: bool,
    in_json: bool,
) -> None:
    """Write a trial's model, or the point of a study's front that you ask for, for a runtime.

    What is written is loaded back in that runtime, and its outputs are compared with ours on
    validation examples. A JSON card beside it says bytes, each layer's form, and how near it is.

    Exit codes: 0 written, 1 nothing on the front is so, 2 the input is wrong.
    """
    try:
        if listing:
            from study.front.runtimes import as_text as runtimes

            return click.echo("\n".join(runtimes()))
        exporter = _exporter(to, {"opset": opset})
        chosen = _chosen(which, asked, within, storage)
        found = _export(exporter, chosen, output, examples)
        answer(found, "\n".join(as_text(found)))
    except InvalidSetting as error:
        fail(2, error.errors)
    except StudyError as error:
        fail(1, [str(error)])


def _exporter(to: str | None, settings: Mapping[str, Any]) -> Exporter:
    """The exporter with the options that were given.

    Raises:
        InvalidSetting: no such target, an option that it has not, or its extra is not installed.
    """
    from compression.export import EXPORTERS

    if to is None:
        known = ", ".join(name.replace("_", "-") for name in EXPORTERS)
        raise InvalidSetting([f"--to: say for what: {known}"])
    given = {name: value for name, value in settings.items() if value is not None}
    exporter = EXPORTERS.build(to.replace("-", "_"), given)
    exporter.check()
    return exporter


def _chosen(
    which: str | None,
    asked: Asked,
    within: str | None,
    storage: str,
) -> Chosen:
    from study.front.exporting import Chosen

    if which is None:
        raise InvalidSetting(
            ["say which model: a trial's id, or a study with a bound, --certified or --knee"]
        )
    if asked.for_one:
        point = pick(read(find(which, storage)), asked)
        return Chosen(point.study, point.member.trial_id, point.record)
    try:
        found = find_trial(which, within, storage)
    except InvalidSetting as error:
        if _is_study(which, storage):
            text = f"'{which}' is a study: say which point of it: a bound, --certified or --knee"
            raise InvalidSetting([text]) from None
        raise error
    return Chosen(found.study, found.trial.trial_id, found.record)


def _is_study(name: str, storage: str) -> bool:
    try:
        find(name, storage)
    except InvalidSetting:
        return False
    return True


def _export(
    exporter: Exporter, chosen: Chosen, output: str | None, examples: int
) -> dict[str, Any]:
    """Write, load back, compare; the card."""
    from study.front.exporting import agreement, card, dense_bytes, subject

    of = subject(chosen)
    name = f"{chosen.trial_id}-{exporter.name.replace('_', '-')}"
    folder = Path(output or Path("export", name))
    refused = list(exporter.refusals(of.source))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        refused.append(f"--output: {folder} is there already; name a new or an empty folder")
    if refused:
        raise InvalidSetting(refused)
    folder.mkdir(parents=True, exist_ok=True)
    written = exporter.write(of.source, folder)
    run = exporter.opened(written.path, of.source)
    held = agreement(of.task, of.source, run, of.data.validation, examples)
    found = card(exporter, of, written, dense_bytes(exporter, of), held)
    (folder / "card.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not held.close:
        raise StudyError(
            f"{written.path} computes something else: outputs differ by up to "
            f"{held.apart:.2g} of {held.largest:.3g}, see the card beside it"
        )
    return {**found, "path": str(written.path)}


def as_text(found: Mapping[str, Any]) -> Iterator[str]:
    """What is printed of an export."""
    held = found["compared"]
    yield f"{found['path']}"
    yield (
        f"  bytes       {found['bytes']}; our own file {found['packed_bytes']}; "
        f"the dense model so written {found['dense_bytes']}, {found['ratio']:.2f}x as much"
    )
    for form, count in Counter(found["layers"].values()).items():
        yield f"  layers      {count} x {form}"
    yield from (f"  note        {note}" for note in found["notes"])
    yield (
        f"  compared    on {held['examples']} validation examples: outputs differ by at most "
        f"{held['largest_difference']:.2g} of {held['largest_output']:.3g}, "
        f"{100 * held['equal_predictions']:.2f}% of predictions are equal"
    )
    yield from (f"  runs in     {name}: {text}" for name, text in found["runs_in"].items())


if __name__ == "__main__":
    main()

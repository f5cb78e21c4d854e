"""``python -m study.speed STUDY``: time and memory of the front's models, packed, beside dense.

What is heavy is imported late: a wrong option is told at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from analysis.answering import Answering, answer, fail
from analysis.columns import setting
from analysis.load import DEFAULT_STORAGE, SPEED, Row
from clusters.connection import limits
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import find, read
from study.front.asked import Asked, asking, pick, shown
from study.origin import now

if TYPE_CHECKING:
    from study.front.points import Point
    from trainables.speed import Called, Speed


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.argument("study")
@asking
@click.option(
    "--batch", "batches", type=click.IntRange(min=1), multiple=True, help="By default 1 and 32."
)
@click.option("--threads", type=click.IntRange(min=1), default=1, help="By default 1.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="For each model and batch.",
)
@click.option("--storage", metavar="URI", default=DEFAULT_STORAGE, help="That holds the studies.")
@click.option("--json", "in_json", is_flag=True, help="One line of JSON.")
def main(
    study: str,
    asked: Asked,
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
    storage: str,
    in_json: bool,
) -> None:
    """Time the models of a study's front beside the dense one, or the point that you ask for.

    Each file is loaded twice, decoded and packed; calls of these and of the dense model take turns
    in this process, on the CPU. Run it with nothing beside it. Kept as speed.json in the study's
    folder, and shown by its next report.

    Exit codes: 0 measured, 1 nothing on the front is so, 2 the input is wrong.
    """
    try:
        finished = find(study, storage)
        of = read(finished)
        points = [pick(of, asked)] if asked.for_one else shown(of)
        # Before torch is imported.
        os.environ.update(limits(threads))
        found = measure(points, batches, threads, seconds)
        finished.write_text(SPEED, json.dumps(found, indent=1) + "\n")
        answer(found, "\n".join(as_text(found)))
    except InvalidSetting as error:
        fail(2, error.errors)
    except StudyError as error:
        fail(1, [str(error)])


def measure(
    points: Sequence[Point], batches: Sequence[int], threads: int, seconds: float
) -> dict[str, Any]:
    """Of each point, as plain data.

    Raises:
        InvalidSetting: a file is gone, or is not the one that was measured; a plugin is not here.
    """
    import platform

    from study.front.exporting import Chosen, subject
    from trainables.hardware.devices import limit_threads
    from trainables.speed import BATCHES, measured

    limit_threads(threads)
    found = []
    for point in points:
        of = subject(Chosen(point.study, point.member.trial_id, point.record))
        dense, split = of.data.model, of.data.validation
        speed = measured(of.task, dense, of.source.packed, split, batches or BATCHES, seconds)
        found.append({"trial_id": point.member.trial_id, "setting": setting(Row(point.record))})
        found[-1] |= plain(speed)
    machine = f"{platform.machine()} cpu, {threads} thread{'s' * (threads > 1)}"
    return {"at": now(), "machine": machine, "points": found}


def plain(speed: Speed) -> dict[str, Any]:
    """As JSON takes it."""
    return {
        "file_bytes": speed.file_bytes,
        "kernels": dict(speed.kernels),
        "forms": {
            name: {
                "resident_bytes": form.resident_bytes,
                "calls": [_call(called) for called in form.calls],
            }
            for name, form in speed.forms.items()
        },
    }


def _call(called: Called) -> dict[str, Any]:
    return {
        "batch": called.batch,
        "milliseconds": vars(called.milliseconds),
        "gain": vars(called.gain),
        "peak_bytes": called.peak_bytes,
        "verdict": called.verdict,
    }


def as_text(found: Mapping[str, Any]) -> Iterator[str]:
    """A table: for each point how it runs packed, decoded, and what dense takes."""
    yield f"{found['machine']}; medians of calls in turn, between quartiles; MB that tensors hold"
    for point in found["points"]:
        kernels = ", ".join(f"{n} by {kernel}" for kernel, n in point["kernels"].items())
        yield ""
        yield f"{point['trial_id']}  {point['setting']}"
        yield f"  file {point['file_bytes']:,} bytes; layers packed: {kernels or 'none'}"
        for name, form in point["forms"].items():
            for call in form["calls"]:
                yield f"  {name:8}{_line(form['resident_bytes'], call, name)}"


def _line(resident: int, call: Mapping[str, Any], name: str) -> str:
    took, gain = call["milliseconds"], call["gain"]
    text = (
        f"batch {call['batch']:<3} {took['median']:9.3f} ms [{took['low']:.3f}, {took['high']:.3f}]"
        f"  keeps {resident / 1e6:.3f}, at most {call['peak_bytes'] / 1e6:.3f}"
    )
    if name == "dense":
        return text
    return f"{text}  {gain['median']:.2f}x dense's speed: {call['verdict']}"


if __name__ == "__main__":
    main()

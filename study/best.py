"""``python -m study.best STUDY``: the front of a finished study, or the point asked for.

Validation decides, as it decided who is on the front; test figures stand beside. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from analysis import units
from analysis.answering import Answering, answer, fail
from analysis.columns import LATENCY, TIMED, setting
from analysis.front_text import metric_line
from analysis.load import DEFAULT_STORAGE, Row
from analysis.masking import printable
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import Finished, find, read
from study.front.asked import Asked, asking, pick, shown
from study.front.points import Point
from study.store.files import artifact
from study.store.storage import Storage
from trainables.record import Objective


def export(point: Point, folder: str) -> Path:
    """Copy the point's file, and a card that says how to load it; the file's path.

    Raises:
        StudyError: the file is gone, or is not the one that was measured.
    """
    name = artifact(point.member.trial_id)
    data = point.study.storage.read_bytes(name)
    if hashlib.sha256(data).hexdigest() != point.record.outcome.sha256:
        raise StudyError(f"{point.study.storage}/{name} is not the file that was measured")
    target = Storage.open(folder)
    path = Path(target.path(f"{point.member.trial_id}.safetensors"))
    target.write_bytes(path.name, data)
    card = {**as_json(point), "load": loading(point, path.name)}
    target.write_text(f"{path.stem}.json", json.dumps(card, indent=1) + "\n")
    return path


def loading(point: Point, path: str) -> list[str]:
    """Python lines that load the file, where the study's plugin files stand."""
    task, plugins = point.record.trial.task, point.study.info.get("config", {}).get("plugins", ())
    return [
        *(
            f"from study.plugins import PluginFile; PluginFile.read({str(name)!r}).load()"
            for name in plugins
        ),
        "from compression import load; from trainables.tasks import TASKS",
        f"task = TASKS.build({task.name!r}, {dict(task.args)!r})",
        f"model = load({path!r}, task.architecture())",
    ]


def as_json(point: Point) -> dict[str, Any]:
    """What is known of a point, as plain data."""
    name, member, versus = point.study.objective.name, point.member, point.against_dense
    return {
        "trial_id": member.trial_id,
        "study": point.study.name,
        "task": str(point.record.trial.task),
        "setting": setting(Row(point.record)),
        "ratio": point.ratio,
        "file_bytes": point.file_bytes,
        "sha256": point.record.outcome.sha256,
        f"val_{name}": point.value,
        "val_interval": _ends(member.low, member.high),
        "probability": member.probability,
        "seeds": len(member.replicates),
        f"test_{name}": point.test,
        "test_drop": versus.drop if versus else None,
        "test_drop_interval": _ends(versus.lower, versus.upper) if versus else None,
        "verified": point.verification.verified if point.verification else None,
        LATENCY.name: point.record.outcome.latency_ms,
        TIMED: point.verified_latency_ms,
        "artifact": f"{point.study.storage}/{artifact(member.trial_id)}",
        "dense": dense_file(point),
        "replay": replay_command(point),
    }


def dense_file(point: Point) -> str | None:
    """The file of the study's dense model, while it has one."""
    dense = point.study.state.baselines.get("dense")
    return f"{point.study.storage}/{artifact(dense.trial_id)}" if dense else None


def _ends(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def replay_command(point: Point) -> str:
    """The command that runs the trial again."""
    storage, name = point.study.storage.path(), point.study.name
    return f"python -m study.replay {point.member.trial_id} --study {storage or name}"


def as_text(point: Point) -> Iterator[str]:
    """What is printed of the point asked for."""
    y, member = point.study.objective, point.member
    yield setting(Row(point.record))
    yield f"  file        {point.file_bytes} bytes, {point.ratio:.2f}x smaller than the dense one"
    seeds = f", mean of {len(member.replicates)} seeds" if member.mean is not None else ""
    span = _span(y, member.low, member.high)
    drop = f", drop {_share(point)}" if point.drop is not None else ""
    yield f"  validation  {units.value(y, point.value)}{seeds}{span}{drop}"
    yield f"  test        {_tested(point)}"
    if (over := point.test_over_seeds) is not None:
        mean = units.value(y, over.value)
        yield f"              over seeds {mean}{_span(y, over.lower, over.upper)}"
    if member.probability is not None:
        yield f"  front       belongs to it with probability {member.probability:.2f}"
    timed = point.verified_latency_ms
    latency = "not measured" if timed is None else f"{timed:.3g} ms when verified"
    yield f"  latency     {latency}"
    if (dense := dense_file(point)) is not None:
        path = f"{point.study.storage}/{artifact(member.trial_id)}"
        yield f"  layers      python -m compression.show {path} --dense {dense}"
    yield f"  again       {replay_command(point)}"


def _tested(point: Point) -> str:
    y, versus = point.study.objective, point.against_dense
    if point.test is None:
        return "not read yet"
    text = units.value(y, point.test)
    if versus is not None:
        drop, low, high = (
            units.difference(y, x) for x in (versus.drop, versus.lower, versus.upper)
        )
        text += f", drop {drop} against dense (95% bounds {low} and {high})"
    problems = point.verification.problems if point.verification else ()
    return text + "".join(f"; NOT VERIFIED: {problem}" for problem in problems)


def _share(point: Point) -> str:
    y = point.study.objective
    return units.difference(y, point.drop) if y.is_fraction else f"{100 * (point.drop or 0.0):.3g}%"


def _span(y: Objective, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" (95% interval {units.value(y, low)} to {units.value(y, high)})"


def table(points: Sequence[Point]) -> Iterator[str]:
    """Which metric it is of, and the front, a line a point."""
    y = points[0].study.objective
    columns = f"{'ratio':>8} {'bytes':>10} {'val':>9} {'test':>9} {'prob':>5}"
    yield metric_line(y, ["val", "test"])
    yield f"{columns}  {'trial':16}  setting"
    for point in points:
        test = "" if point.test is None else units.value(y, point.test)
        sure = "" if point.member.probability is None else f"{point.member.probability:.2f}"
        yield (
            f"{point.ratio:7.2f}x {point.file_bytes:>10} {units.value(y, point.value):>9} "
            f"{test:>9} {sure:>5}  {point.member.trial_id}  {setting(Row(point.record))}"
        )


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.argument("study")
@asking
@click.option("--export", "folder", metavar="DIR", help="Copy the point's file there, with a card.")
@click.option("--storage", metavar="URI", default=DEFAULT_STORAGE, help="That holds the studies.")
@click.option("--json", "in_json", is_flag=True, help="One line of JSON.")
def main(
    study: str,
    asked: Asked,
    folder: str | None,
    storage: str,
    in_json: bool,
) -> None:
    """The front of STUDY, or the point of it that you ask for.

    STUDY is a name in the storage, or a folder. With a bound of quality the smallest model that
    keeps all bounds; with bounds of size and latency alone the best one within them.

    Exit codes: 0 found, 1 nothing on the front is so, 2 the input is wrong.
    """
    try:
        finished = read(find(study, storage))
        if not asked.for_one:
            if folder:
                raise InvalidSetting(["--export: say which point: a bound, --certified or --knee"])
            points = shown(finished)
            return _say([as_json(p) for p in points], [*_state(finished), *table(points)])
        point = pick(finished, asked)
        path = str(export(point, folder)) if folder else as_json(point)["artifact"]
        card = {**as_json(point), "path": path}
        _say(card, [*_state(finished), *as_text(point), f"  path        {path}"])
    except InvalidSetting as error:
        fail(2, error.errors)
    except StudyError as error:
        fail(1, [str(error)])


def _state(study: Finished) -> Iterator[str]:
    if study.state.frozen is None:
        yield f"{study.name} has not ended: its front as it is now, not yet tested"


def _say(data: Sequence[Any] | Mapping[str, Any], lines: Sequence[str]) -> None:
    answer(data, printable("\n".join(lines)))


if __name__ == "__main__":
    main()

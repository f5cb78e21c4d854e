"""The words of a report: `summary.md`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from analysis.columns import Axis, Point
from analysis.findings import Findings
from analysis.stats import drop_interval, smallest_detectable
from trainables.record import Direction, Status

__all__ = ["counted", "short", "write"]


def write(found: Findings) -> str:
    """The summary in Markdown."""
    sections = [
        f"# {_safe(found.study.name)}\n\n{_headline(found)}",
        "![The front](front.png)",
        "## What to ship\n\n" + _bullets(_answers(found)),
        "## Baselines\n\n" + _table(_BASELINE_HEAD, [_baseline(*b) for b in _order(found)]),
        "## Front\n\n" + _table(_FRONT_HEAD, [_member(p, found) for p in found.front]) + _READING,
        "## What was left out\n\n" + _bullets(_left_out(found)),
        "## What this rests on\n\n" + _bullets(_ground(found)),
    ]
    return "\n\n".join(sections) + "\n"


def short(point: Point, axis: Axis) -> str:
    """The size of a point on an axis: ``12.3×``, ``4,096 B``."""
    value = point.number(axis.name) or 0.0
    if axis.objective.direction is Direction.MAXIMIZE:
        return f"{value:.3g}×"
    return f"{value:,.0f} {axis.objective.unit}".strip()


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _headline(found: Findings) -> str:
    margin = f"{100 * found.margin:g} point"
    if found.certified:
        return (
            f"**{short(found.certified, found.axis)}**, the smallest of the front whose test drop "
            f"is certified within {margin}: "
            f"{_safe(found.certified.values['setting'])}, `{found.certified.values['artifact']}`."
        )
    why = "at this n; below is what n can show" if found.failed_first else "nothing was tested"
    return f"No model of the front is certified within {margin} of dense: {why}."


def _answers(found: Findings) -> Iterable[str]:
    margin = f"{100 * found.margin:g} point"
    yield f"Smallest model of the front certified within {margin} on test: {_certificate(found)}"
    for role, point in _smaller_baselines(found):
        smaller = " is smaller than that and" if found.certified else " is"
        described = _described(point, found)
        yield f"The baseline {role}{smaller} within {margin}, tested on its own: {described}"
    yield (
        f"Smallest model within {margin} of dense on validation (chosen before test was read): "
        + (_described(found.chosen, found) if found.chosen else "none.")
    )
    yield "Knee of the front: " + (
        _described(found.knee, found)
        if found.knee
        else "none: no point bulges beyond the line of its ends."
    )


def _certificate(found: Findings) -> str:
    text = _described(found.certified, found) if found.certified else "**not certified at this n**."
    first = found.failed_first
    pair = first.paired("dense") if first else None
    if first and pair:
        share = (pair.only_reference + pair.only_model) / pair.n
        detectable = smallest_detectable(pair.n, share)
        text += (
            f" {'The next smaller one' if found.certified else 'The largest of the front'}, "
            f"{short(first, found.axis)}, fails: its drop is "
            f"{_points(pair.drop)} with a 95% bound of {_points(first.number('drop_upper'))}. "
            f"With {pair.n} "
            f"examples of which {100 * share:.1f}% change sides, the smallest difference that "
            f"can be detected (one-sided 5%, power 80%) is {_points(detectable)}."
        )
    elif not found.certified:
        text += " No point of the front was verified on test against dense."
    return text


def _smaller_baselines(found: Findings) -> Iterable[tuple[str, Point]]:
    """Baselines that a reader would ship rather than what was certified."""
    least = found.certified.number(found.axis.name) if found.certified else None
    limit = -math.inf if least is None else -found.axis.objective.loss(least)
    for role, point in found.baselines.items():
        size, bound = point.number(found.axis.name), point.number("drop_upper")
        if role in ("dense", "dense_recovered") or size is None or bound is None:
            continue
        if -found.axis.objective.loss(size) > limit and bound <= found.margin:
            yield role, point


def _described(point: Point, found: Findings) -> str:
    pair = point.paired("dense")
    text = f"**{short(point, found.axis)}**, {_safe(point.values['setting'])}"
    if pair:
        at = drop_interval(pair)
        text += (
            f": test drop {_points(at.value)}, 95% interval {_points(at.lower)} to "
            f"{_points(at.upper)}, 95% bound {_points(point.number('drop_upper'))}"
        )
    return f"{text} (`{point.values['artifact']}`)."


_BASELINE_HEAD = (
    "baseline",
    "setting",
    "val",
    "test",
    "drop",
    "bound",
    "ratio",
    "file bytes",
    "verified",
)
_FRONT_HEAD = (
    *("ratio", "layer ratio", "vs fp16", "file bytes", "method", "init", "adapter", "rank"),
    *("optimizer", "epochs", "val", "test", "drop", "bound", "vs recovered", "verified", "trial"),
)
_READING = (
    "\n\nval, test: on validation (on which the points were chosen, so the best is flattered) and "
    "on test. drop: test accuracy of dense minus that of the point on the same examples, in "
    "points; bound: its one-sided 95% upper bound; vs recovered: the drop against dense with the "
    "same recovery budget. Empty: not measured."
)


def _order(found: Findings) -> list[tuple[str, Point, str]]:
    return [(name, point, found.y.name) for name, point in found.baselines.items()]


def _baseline(name: str, point: Point, y: str) -> list[str]:
    return [
        name,
        *(str(point.values["setting"]), *_scores(point, y)),
        *(_points(point.number(column), "") for column in ("drop", "drop_upper")),
        _times(point, "ratio"),
        _count(point, "file_bytes"),
        _yes(point),
    ]


def _scores(point: Point, y: str) -> tuple[str, str]:
    percent = y.endswith("accuracy")

    def shown(column: str) -> str:
        value = point.number(column)
        if value is None:
            return ""
        return f"{100 * value:.2f}%" if percent else f"{value:.4g}"

    return shown(y), shown("test_" + y.removeprefix("val_"))


def _member(point: Point, found: Findings) -> list[str]:
    values = point.values
    stopped = " (stopped)" if point.outcome.status is Status.STOPPED else ""
    return [
        *(_times(point, name) for name in ("ratio", "layer_ratio", "ratio_vs_fp16")),
        _count(point, "file_bytes"),
        *(str(values[name]) for name in ("method", "init", "adapter", "rank", "optimizer")),
        f"{values['epochs_done']}{stopped}",
        *_scores(point, found.y.name),
        *(_points(point.number(n), "") for n in ("drop", "drop_upper", "drop_vs_recovered")),
        _yes(point),
        f"`{values['trial_id']}`",
    ]


def _left_out(found: Findings) -> Iterable[str]:
    searched = [row for row in found.study.rows if row.role == "search"]
    status = Counter(row.record.outcome.status for row in searched)
    yield (
        f"{counted(len(searched), 'trial')}: {status[Status.COMPLETED]} completed, "
        f"{status[Status.STOPPED]} stopped early, {status[Status.FAILED]} failed; "
        f"on the front: {len(found.front)}."
    )
    stopped = sum(p.outcome.status is Status.STOPPED for p in found.front)
    if stopped:
        yield f"On the front, stopped early and drawn as they are: {stopped}."
    causes = Counter(row.record.outcome.cause for row in searched if row.record.outcome.cause)
    for cause, count in causes.most_common(5):
        yield f"Failed, {count}: {_safe(str(cause).splitlines()[0])}"
    lost = sum(
        row.record.outcome.sha256 is None and row.record.outcome.status is not Status.FAILED
        for row in searched
    )
    if lost:
        yield f"Finished without an artifact, so no members of the front: {lost}."
    answered = _mapping(found.study.info.get("counts")).get("answered", 0)
    yield f"Repeated suggestions, answered from the record and not run again: {answered}."
    if found.skipped:
        yield f"On the front, not verified on test and so not certified: {found.skipped}."
    for point in [*found.baselines.values(), *found.front]:
        problems = point.verification.problems if point.verification else ()
        for problem in problems:
            yield f"`{point.values['trial_id']}`: {_safe(problem)}"


def _ground(found: Findings) -> Iterable[str]:
    info = found.study.info
    splits = [
        f"{name} {_mapping(split).get('n', '?')}"
        for name, split in _mapping(info.get("splits")).items()
    ]
    n = next((pair.n for p in found.front if (pair := p.paired("dense"))), None)
    if n and "test" not in _mapping(info.get("splits")):
        splits.append(f"test {n}")
    yield "Examples: " + (", ".join(splits) or "not stated") + "."
    reads = info.get("test_reads")
    yield f"Reads of this test split so far: {len(reads) if reads else 0}{_read_by(reads)}."
    yield (
        f"Seed {info.get('seed', '?')}: one seed for the dense training, the splits and the "
        "recovery, so intervals cover the sampling of the test examples only."
    )
    versions = _mapping(info.get("versions"))
    yield "Versions: " + (", ".join(f"{k} {v}" for k, v in versions.items()) or "not stated") + "."
    yield (
        "Ratios are file of the dense model over file of the compressed one, both as saved; "
        "latency and memory at run time follow from neither."
    )


def _read_by(reads: Any) -> str:
    if not isinstance(reads, list) or not reads:
        return ""
    studies = sorted({_safe(_mapping(read).get("study", "?")) for read in reads})
    return f", by {', '.join(studies)}"


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _points(value: float | None, unit: str = " pp") -> str:
    return "" if value is None else f"{100 * value:.2f}{unit}"


def _times(point: Point, column: str) -> str:
    value = point.number(column)
    return "" if value is None else f"{value:.3g}×"


def _count(point: Point, column: str) -> str:
    value = point.number(column)
    return "" if value is None else f"{value:,.0f}"


def _yes(point: Point) -> str:
    return "yes" if point.values["verified"] else "no"


def _safe(text: object) -> str:
    """Text of users as Markdown shows it: no markup, one line."""
    plain = " ".join(str(text).split())
    for mark in ("\\", "`", "*", "_", "|", "<", ">", "[", "]"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head)]
    lines += [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

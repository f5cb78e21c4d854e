"""The words of a report: `summary.md`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis import units
from analysis.columns import RELATIVE, Axis, Point
from analysis.findings import Findings
from analysis.markup import bullets, safe
from analysis.stats import FEWEST_GROUPS, drop_interval, smallest_detectable
from analysis.summary_published import published_section
from analysis.summary_seeds import run_again, what_varies
from analysis.summary_speed import speed_section
from analysis.summary_tables import baseline_table, front_table
from trainables.record import Direction, Objective, Status

__all__ = ["counted", "short", "write"]


def write(found: Findings) -> str:
    """The summary in Markdown."""
    sections = [
        f"# {safe(found.study.name)}\n\n{_headline(found)}",
        "![The front](front.png)",
        "## What to ship\n\n" + bullets(_answers(found)),
        "## Baselines\n\n" + baseline_table(found),
        "## Front\n\n" + front_table(found),
        *([speed_section(found)] if found.study.speed else []),
        *([published_section(found)] if found.published else []),
        "## What was left out\n\n" + bullets(_left_out(found)),
        "## What this rests on\n\n" + bullets(_ground(found)),
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
    margin = units.margin_of(found.y, found.margin)
    if found.certified:
        return (
            f"**{short(found.certified, found.axis)}**, the smallest of the front whose test drop "
            f"is certified within {margin}{_of_what(found)}: "
            f"{safe(found.certified.values['setting'])}, `{found.certified.values['artifact']}`."
        )
    first = found.failed_first.dense if found.failed_first else None
    why = "at this n; below is what n can show" if first else "nothing was tested"
    if first and first.too_few:
        why = f"{first.sample} show too little"
    return f"No model of the front is certified within {margin} of dense: {why}."


def _of_what(found: Findings) -> str:
    """What a relative margin is a share of."""
    return "" if found.y.is_fraction else f" of dense's {units.name(found.y)}"


def _answers(found: Findings) -> Iterable[str]:
    margin = units.margin_of(found.y, found.margin)
    yield (
        f"Smallest model of the front certified within {margin}{_of_what(found)} on test: "
        + _certificate(found)
    )
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
    first = found.failed_first
    if found.certified:
        text = _described(found.certified, found)
    elif first and first.dense and first.dense.too_few:
        return f"**not certified: {first.dense.sample}**. {_resolution(first, found.y)}"
    else:
        text = "**not certified at this n**."
    if first and first.dense:
        text += (
            f" {'The next smaller one' if found.certified else 'The largest of the front'}, "
            f"{short(first, found.axis)}, fails: its drop is "
            f"{units.difference(found.y, first.dense.drop)} with a 95% bound of "
            f"{_bound(first, found.y)}. {_resolution(first, found.y)}"
        )
    elif not found.certified:
        text += " No point of the front was verified on test against dense."
    return text


def _bound(point: Point, y: Objective) -> str:
    """The upper bound, and beside it what a relative margin is held against."""
    text = units.difference(y, point.number("drop_upper"))
    share = point.number(RELATIVE)
    return text if share is None else f"{text} ({100 * share:.2f}% of dense's)"


def _resolution(point: Point, y: Objective) -> str:
    """What this many examples can show."""
    if point.dense is None:
        return ""
    n, pair = point.dense.n, point.dense.pair
    if point.dense.too_few:
        return (
            f"Bounds over fewer than {FEWEST_GROUPS} groups of alike examples are too narrow to "
            "certify by; test on more groups, not on more examples of these."
        )
    if pair is None:
        half = units.difference(y, (point.dense.upper - point.dense.lower) / 2)
        return f"With {point.dense.sample} its bounds are about {half} from it."
    share = (pair.only_reference + pair.only_model) / n
    detectable = smallest_detectable(n, share)
    return (
        f"With {n} examples of which {100 * share:.1f}% change sides, the smallest difference that "
        f"can be detected (one-sided 5%, power 80%) is {units.difference(y, detectable)}."
    )


def _smaller_baselines(found: Findings) -> Iterable[tuple[str, Point]]:
    """Baselines that a reader would ship rather than what was certified."""
    least = found.certified.number(found.axis.name) if found.certified else None
    limit = -math.inf if least is None else -found.axis.objective.loss(least)
    for role, point in found.baselines.items():
        size = point.number(found.axis.name)
        if role in ("dense", "dense_recovered") or size is None or point.dense is None:
            continue
        if -found.axis.objective.loss(size) > limit and point.dense.bound <= found.margin:
            yield role, point


def _described(point: Point, found: Findings) -> str:
    text, dense = f"**{short(point, found.axis)}**, {safe(point.values['setting'])}", point.dense
    if dense:
        share, low, high = 90, dense.lower, dense.upper
        if dense.pair:
            share, at = 95, drop_interval(dense.pair)
            low, high = at.lower, at.upper
        drop, low_text, high_text = (units.difference(found.y, v) for v in (dense.drop, low, high))
        text += (
            f": test drop {drop}, {share}% interval {low_text} to {high_text}, "
            f"95% bound {_bound(point, found.y)}"
        )
        if dense.groups is not None:
            text += f", over {dense.sample}"
    return f"{text} (`{point.values['artifact']}`)."


def _left_out(found: Findings) -> Iterable[str]:
    searched = [row for row in found.study.rows if row.role == "search"]
    status = Counter(row.record.outcome.status for row in searched)
    memory = status[Status.OUT_OF_MEMORY]
    yield (
        f"{counted(len(searched), 'trial')}: {status[Status.COMPLETED]} completed, "
        f"{status[Status.STOPPED]} stopped early, {status[Status.FAILED]} failed"
        f"{f', {memory} out of memory' if memory else ''}; "
        f"on the front: {len(found.front)}."
    )
    yield from run_again(found)
    stopped = sum(p.outcome.status is Status.STOPPED for p in found.front)
    if stopped:
        yield f"On the front, stopped early and drawn as they are: {stopped}."
    causes = Counter(row.record.outcome.cause for row in searched if row.record.outcome.cause)
    for cause, count in causes.most_common(5):
        yield f"Failed, {count}: {safe(str(cause).splitlines()[0])}"
    lost = sum(
        row.record.outcome.sha256 is None and not row.record.outcome.failed for row in searched
    )
    if lost:
        yield f"Finished without an artifact, so no members of the front: {lost}."
    answered = _mapping(found.study.info.get("counts")).get("answered", 0)
    yield f"Repeated suggestions, answered from the record and not run again: {answered}."
    if inherited := _mapping(found.study.info.get("counts")).get("inherited", 0):
        yield f"Taken over from an earlier study: {inherited}."
    if found.skipped:
        yield (
            "On the front, not verified or not compared on test and so not certified: "
            f"{found.skipped}."
        )
    for point in [*found.baselines.values(), *found.front]:
        problems = point.verification.problems if point.verification else ()
        for problem in problems:
            yield f"`{point.values['trial_id']}`: {safe(problem)}"


def _ground(found: Findings) -> Iterable[str]:
    info = found.study.info
    splits = [
        f"{name} {_mapping(split).get('n', '?')}"
        for name, split in _mapping(info.get("splits")).items()
    ]
    compared = next((p.dense for p in found.front if p.dense), None)
    if compared and "test" not in _mapping(info.get("splits")):
        splits.append(f"test {compared.n}")
    yield "Examples: " + (", ".join(splits) or "not stated") + "."
    if compared and compared.groups is not None:
        yield (
            f"Tested on {compared.sample}: examples of one group are alike, so intervals are those "
            "of groups drawn anew."
        )
    if asked := info.get("constraints"):
        texts = safe(", ".join(asked))
        yield (
            f"Every point of the front meets {texts}; what does not is none."
            if found.decided
            else f"This front is not held to the study's constraints, {texts}: it is over records "
            "alone, for the study has not decided it, or traded other objectives."
        )
    reads = info.get("test_reads")
    yield f"Reads of this test split so far: {len(reads) if reads else 0}{_read_by(reads)}."
    yield from what_varies(found)
    if compared:
        yield f"Intervals of drops: {compared.method}."
    versions = _mapping(info.get("versions"))
    yield "Versions: " + (", ".join(f"{k} {v}" for k, v in versions.items()) or "not stated") + "."
    yield (
        "Ratios are file of the dense model over file of the compressed one, both as saved; "
        "latency and memory at run time follow from neither."
    )


def _read_by(reads: Any) -> str:
    if not isinstance(reads, list) or not reads:
        return ""
    studies = sorted({safe(_mapping(read).get("study", "?")) for read in reads})
    return f", by {', '.join(studies)}"


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}

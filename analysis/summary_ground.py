"""The sections of a summary that say what a study left out, and what its figures rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from analysis import units
from analysis.columns import Point
from analysis.findings import Findings
from analysis.markup import safe, typed
from analysis.stats import FEWEST_GROUPS, fewest_changes, smallest_detectable
from analysis.summary_seeds import run_again, what_varies
from trainables.record import Objective, Status

__all__ = ["ground", "left_out", "resolution", "unmeasured"]

BASELINES = ("dense", "dense_recovered", "fp16", "int8")
"""Those that a study runs, unless it is told not to."""


def left_out(found: Findings) -> Iterable[str]:
    """How trials ended, and what takes no part: a line of Markdown each."""
    searched = [row for row in found.study.rows if row.role == "search"]
    status = Counter(row.record.outcome.status for row in searched)
    memory = status[Status.OUT_OF_MEMORY]
    yield (
        f"{units.counted(len(searched), 'trial')}: {status[Status.COMPLETED]} completed, "
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


def ground(found: Findings) -> Iterable[str]:
    """Examples, seeds, test reads, methods and versions: a line of Markdown each."""
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
    judged = (found.failed_first, found.certified, *found.front)
    tested = next((point for point in judged if point and point.dense), None)
    if tested:
        yield f"What this n can show: {resolution(tested, found.y)}"
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


def resolution(point: Point, y: Objective) -> str:
    """What as many examples as a point was tested on can show; nothing of one that was not."""
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
    if detectable is None:
        return f"With {n} examples no difference can be told from chance."
    if detectable > share:
        return (
            f"With {n} examples of which {100 * share:.1f}% change sides no difference is told "
            f"from chance: that takes {fewest_changes()} that all change to the worse, as a model "
            f"that loses {units.difference(y, detectable)} has with power 80%."
        )
    return (
        f"With {n} examples of which {100 * share:.1f}% change sides, the smallest difference that "
        f"can be detected (one-sided 5%, power 80%) is {units.difference(y, detectable)}."
    )


def unmeasured(found: Findings) -> Iterator[str]:
    """What a reader may look for and this study did not measure: a line of Markdown each."""
    if missing := [name for name in BASELINES if name not in found.baselines]:
        yield f"Baselines that this study has not: {', '.join(missing)}."
    front = found.front
    untested = sum(point.verification is None for point in front)
    if untested:
        yield f"Not scored on test: {untested} of {len(front)} points of the front."
    if not any("seeds" in point.values for point in front):
        yield "How other seeds would come out: no point was run again (`confirm` in a config)."
    if not found.study.speed:
        yield (
            "Time and memory at run time of the files that ship: "
            f"`python -m study.speed {typed(found.study.name) or 'STUDY'}` measures them."
        )
    if not any(point.verification and point.verification.runs_in for point in front):
        yield (
            "Which other runtimes hold a point packed: "
            "`python -m study.export TRIAL --to RUNTIME` asks them when it writes a file."
        )
    scores = {name for p in front if p.verification for name in p.verification.metrics}
    for name, words in ABSENT.items():
        if name not in scores:
            yield words


ABSENT = {
    "worst_class_drop": "How the worst class fares.",
    "calibration_error": "Whether probabilities are calibrated.",
}
"""By the name of a test metric: what it would tell."""

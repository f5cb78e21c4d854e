"""The section of `summary.md` on published points."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.findings import Findings
from analysis.markup import bullets, safe, table
from analysis.published import SYSTEMS, Placed, published_score, subject_of

__all__ = ["published_section"]

_HEAD = ("system", "point", "model", "data", "split", "ratio", "value", "comparable")
_UNSTATED = "not stated"


def published_section(found: Findings) -> str:
    """What was asked of others' figures: of whom, whether comparable, and what a study takes."""
    subject = subject_of(found.study.info)
    said = (f"{key}: {safe(value or _UNSTATED)}" for key, value in vars(subject).items())
    rows = [_row(one) for one in found.published]
    reading = (
        f"This study's {'; '.join(said)}. A published point is comparable where all three are "
        "the same words, and so are the metric and what the ratio counts; what is not stated "
        "equals nothing."
    )
    absent = bullets(_absent(found))
    return "\n\n".join(filter(None, ["## Published points", reading, absent, table(_HEAD, rows)]))


def _absent(found: Findings) -> Iterable[str]:
    """Systems none of whose points is of what this study is of."""
    subject = subject_of(found.study.info)
    stated = all(vars(subject).values())
    for name in dict.fromkeys(one.point.system for one in found.published):
        points = [one.point for one in found.published if one.point.system == name]
        if not (stated and any(point.subject == subject for point in points)):
            system = SYSTEMS[name]
            yield (
                f"{system.title} ({points[0].source}): not reproduced here: needs {system.needs}; "
                f"`{system.command}`"
            )


def _row(one: Placed) -> list[str]:
    point = one.point
    score = "" if point.value is None else published_score(point.metric, point.value)
    return [
        SYSTEMS[point.system].title,
        point.point,
        *(text or _UNSTATED for text in vars(point.subject).values()),
        f"{point.ratio:.4g}× {point.ratio_kind}",
        score or "not published",
        f"no: {one.why_not}" if one.why_not else "yes",
    ]

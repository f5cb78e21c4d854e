"""The words of a report: `summary.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from analysis import units
from analysis.columns import RELATIVE, Axis, Point
from analysis.findings import Findings
from analysis.markup import bullets, safe
from analysis.stats import drop_interval
from analysis.summary_ground import ground, left_out, resolution, unmeasured
from analysis.summary_published import published_section
from analysis.summary_speed import speed_section
from analysis.summary_tables import baseline_table, front_table
from trainables.record import Direction, Objective

__all__ = ["answers", "headline", "short", "write"]


def write(found: Findings) -> str:
    """The summary in Markdown."""
    sections = [
        f"# {safe(found.study.name)}\n\n{headline(found)}",
        "![The front](front.png)",
        "## What to ship\n\n" + bullets(answers(found)),
        "## Baselines\n\n" + baseline_table(found),
        "## Front\n\n" + front_table(found),
        *([speed_section(found)] if found.study.speed else []),
        *([published_section(found)] if found.published else []),
        "## What was left out\n\n" + bullets(left_out(found)),
        "## What this rests on\n\n" + bullets(ground(found)),
        "## What was not measured\n\n" + (bullets(unmeasured(found)) or "Nothing of this."),
    ]
    return "\n\n".join(sections) + "\n"


def short(point: Point, axis: Axis) -> str:
    """The size of a point on an axis: ``12.3×``, ``4,096 B``; a bare ratio is of saved files."""
    value = point.number(axis.name) or 0.0
    if axis.objective.direction is Direction.MAXIMIZE:
        return f"{value:.3g}×{_RATIOS.get(axis.name, '')}"
    return f"{value:,.0f} {axis.objective.unit or axis.name}"


_RATIOS = {"layer_ratio": " (compressed layers only)", "nominal_ratio": " (nominal)"}
"""What a ratio is of, other than of saved files."""


def headline(found: Findings) -> str:
    """The one sentence above all others, in Markdown."""
    margin = units.margin_of(found.y, found.margin)
    if found.own:
        return f"Not certified over these axes. {_own(found, found.own)}"
    if found.certified:
        return (
            f"**{short(found.certified, found.axis)}**, the smallest of the front whose test drop "
            f"is certified within {margin}{_of_what(found)}: "
            f"{safe(found.certified.values['setting'])}, `{found.certified.values['artifact']}`."
        )
    return f"No model of the front is certified within {margin} of dense: {_why_none(found)}."


def _why_none(found: Findings) -> str:
    first = found.failed_first
    if first is None or first.dense is None:
        return "nothing was tested"
    if first.dense.too_few:
        return f"{first.dense.sample} show too little"
    return (
        f"{first.dense.sample} certify the first in order, {short(first, found.axis)}, within "
        f"{_bound(first, found.y)}"
    )


def _own(found: Findings, own: Findings) -> str:
    """Why a front over other axes certifies nothing, and what the study's own does."""
    why = "this front was drawn after test was read"
    if not any(point.dense for point in found.front):
        why += (
            f", and {units.name(found.y)} has no paired bound: test compared models with dense in "
            f"{units.name(own.y)} alone"
        )
    margin, axes = units.margin_of(own.y, own.margin), f"{units.name(own.y)} against saved files"
    text = f"On the study's own front, {axes}, no model is certified within {margin}"
    if point := own.certified:
        text = (
            f"The study's own certificate, {axes}, is {short(point, own.axis)} within {margin}: "
            f"{safe(point.values['setting'])}, `{point.values['artifact']}`"
        )
    return f"{why[0].upper()}{why[1:]}. {text}."


def _of_what(found: Findings) -> str:
    """What a relative margin is a share of."""
    return "" if found.y.is_fraction else f" of dense's {units.name(found.y)}"


def answers(found: Findings) -> Iterable[str]:
    """What to ship, and how sure that is: a line of Markdown each."""
    margin = units.margin_of(found.y, found.margin)
    if found.own:
        yield f"Certified within {margin}: none over these axes. {_own(found, found.own)}"
        yield from _from_validation(found, "on a front drawn after test was read")
        return
    yield (
        f"Smallest model of the front certified within {margin}{_of_what(found)} on test: "
        + _certificate(found)
    )
    yield (
        f"Certified means: tested in an order that validation gave ({found.tested.order}), each by "
        "its one-sided 95% bound, up to the first that fails; so the chance of any false "
        "certificate is at most 5% over the whole front."
    )
    if found.tested.after:
        sizes = ", ".join(
            f"{short(p, found.axis)} ({_bound(p, found.y)})" for p in found.tested.after
        )
        yield (
            f"Own bound within {margin}, but not certified: after a failure in the order: {sizes}."
        )
    for role, point in _smaller_baselines(found):
        smaller = " is smaller than that and" if found.certified else " is"
        described = _described(point, found)
        yield f"The baseline {role}{smaller} within {margin}, tested on its own: {described}"
    yield from _from_validation(found, "chosen before test was read")


def _from_validation(found: Findings, when: str) -> Iterable[str]:
    margin = units.margin_of(found.y, found.margin)
    yield (
        f"Smallest model within {margin} of dense on validation ({when}): "
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
        return f"**not certified: {first.dense.sample}**. {resolution(first, found.y)}"
    else:
        text = "**not certified at this n**."
    if first and first.dense:
        text += (
            f" {'The next in order' if found.certified else 'The first in order'}, "
            f"{short(first, found.axis)}, fails: its drop is "
            f"{units.difference(found.y, first.dense.drop)} with a 95% bound of "
            f"{_bound(first, found.y)}. {resolution(first, found.y)}"
        )
    elif not found.certified:
        text += " No point of the front was verified on test against dense."
    return text


def _bound(point: Point, y: Objective) -> str:
    """The upper bound, and beside it what a relative margin is held against."""
    text = units.difference(y, point.number("drop_upper"))
    share = point.number(RELATIVE)
    return text if share is None else f"{text} ({100 * share:.2f}% of dense's)"


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

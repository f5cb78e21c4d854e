"""Which point of a front is asked for: the options of commands that take one, and their answer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from analysis import units
from analysis.fronts import knee
from analysis.sequence import Entry, sequence
from analysis.stats import MARGIN
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import Finished
from study.front.bounds import Bound, bounds, nearest
from study.front.points import Point, front, smallest_baseline
from study.store.files import artifact

__all__ = ["Asked", "asking", "choose", "pick", "shown", "smallest_certified"]


@dataclass(frozen=True)
class Asked:
    """Bounds by the names of their options, as people write them, or one of the other points."""

    amounts: Mapping[str, str | None]
    knee: bool = False
    certified: bool = False

    @property
    def for_one(self) -> bool:
        """Whether any point was asked for."""
        return self.knee or self.certified or any(v is not None for v in self.amounts.values())


_AMOUNTS = {
    "max_bytes": ("SIZE", "Of the file, such as 200kB or 5MB."),
    "min_accuracy": ("VALUE", "Such as 0.95 or 95%."),
    "min_metric": ("VALUE", "The primary metric, where more is better."),
    "max_metric": ("VALUE", "The primary metric, where less is better."),
    "max_drop": ("DROP", "Against the dense model: 1pp, or 1%."),
    "max_latency": ("TIME", "Of one example, such as 3ms."),
}
_CERTIFIED = "The smallest whose drop on test is certified within 1 point, or 1%: the report's own."


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the options that ask for a point of a front, as the argument ``asked``."""

    @functools.wraps(command)
    def asked(*, knee: bool, certified: bool, **options: Any) -> None:
        amounts = {name: options.pop(name) for name in _AMOUNTS}
        return command(asked=Asked(amounts, knee, certified), **options)

    found = click.option("--knee", is_flag=True, help="Where the front bends most.")(asked)
    found = click.option("--certified", is_flag=True, help=_CERTIFIED)(found)
    for name, (metavar, text) in reversed(_AMOUNTS.items()):
        option = f"--{name.replace('_', '-')}"
        found = click.option(option, metavar=metavar, help=text)(found)
    return found


def choose(points: Sequence[Point], asked: Sequence[Bound], at_knee: bool) -> Point | None:
    """The point asked for, or None if none is.

    With a bound of quality the smallest that keeps all bounds, under bounds of cost alone the best;
    or the knee of the front: of the metric against log2 of the ratio, as fronts are drawn.
    """
    if at_knee:
        at = knee([(point.loss, -math.log2(point.ratio)) for point in points])
        return None if at is None else points[at]
    kept = [point for point in points if all(bound.holds(point) for bound in asked)]
    if any(bound.of_quality for bound in asked):
        return min(kept, key=lambda p: (p.file_bytes, p.loss), default=None)
    return min(kept, key=lambda p: (p.loss, p.file_bytes), default=None)


def pick(finished: Finished, asked: Asked) -> Point:
    """The point of a study that is asked for.

    Raises:
        InvalidSetting: a bound is malformed, or stands beside what goes alone.
        StudyError: there is no model yet, or nothing on the front is so.
    """
    limits = bounds(finished, asked.amounts)
    flags = {"--certified": asked.certified, "--knee": asked.knee}
    alone = [flag for flag, given in flags.items() if given]
    if alone and (limits or len(alone) > 1):
        raise InvalidSetting([f"{alone[0]}: goes without bounds and without any other such option"])
    points = shown(finished)
    if asked.certified:
        return smallest_certified(points)
    point = choose(points, limits, asked.knee)
    if point is None:
        raise StudyError(nearest(points, limits) if limits else "the front does not bend: no knee")
    return point


def shown(finished: Finished) -> list[Point]:
    """The front.

    Raises:
        StudyError: it is empty.
    """
    points = front(finished)
    if not points:
        raise StudyError(f"{finished.name} has no model yet")
    return points


def smallest_certified(points: Sequence[Point]) -> Point:
    """The smallest whose drop on test is certified, as the report's first sentence has it.

    Args:
        points: A front.

    Raises:
        StudyError: none is; says what comes nearest and what can be done.
    """
    bound = [(p, p.against_dense) for p in points]
    entries = [
        Entry((p, versus), p.ratio, p.verification, versus.bound)
        for p, versus in bound
        if p.is_verified and versus
    ]
    tested = sequence(entries)
    if tested.certified:
        return max((p for p, _ in tested.certified), key=lambda p: p.ratio)
    y = points[0].study.objective
    margin = units.margin_of(y, MARGIN)
    text = f"no model of the front is certified within {margin} of dense: "
    if tested.failed is None:
        raise StudyError(f"{text}none was tested; a study tests its front when it ends")
    first, versus = tested.failed
    text += f"{versus.sample} "
    text += (
        "show too little" if versus.too_few else f"certify the first in order, {first.ratio:.2f}x, "
    )
    if not versus.too_few:
        text += f"within {units.difference(y, versus.upper)}"
    raise StudyError(f"{text}. {_instead(points[0].study)}")


def _instead(study: Finished) -> str:
    """What can be done where no model of the front is certified."""
    y = study.objective
    short = units.margin_of(y, MARGIN, short=True).replace(" ", "")
    text = f"More test examples certify more; --max-drop {short} is the smallest on validation"
    if (found := smallest_baseline(study)) is None:
        return text
    role, ratio, trial_id = found
    path = f"{study.storage}/{artifact(trial_id)}"
    return f"{text}. Certified, tested on its own, is the baseline {role}, {ratio:.2f}x: {path}"

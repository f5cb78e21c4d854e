"""The words and tables of a comparison, and its numbers: `comparison.md`, `comparison.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis import units
from analysis.markup import bullets, safe, table
from analysis.studies.comparison import Comparison
from analysis.studies.contest import DRAWS, Difference, Place, beaten
from analysis.studies.rivals import Field
from trainables.record import Objective

__all__ = ["Part", "numbers", "parts", "title", "write"]

_Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Part:
    """A part of a comparison under its title: a table, and lines; all of it Markdown."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()


def title(made: Comparison) -> str:
    """What is compared."""
    return f"{len(made.field.rivals)} studies compared: {safe(made.field.meaning)} against size"


def parts(made: Comparison) -> list[Part]:
    """What is said of a comparison, in order."""
    return [
        Part("Hypervolume", *_volumes(made), lines=list(_differences(made))),
        Part("Who is ahead where", *_places(made)),
        Part("Points of one front that another study beats", *_beaten(made.field)),
        Part("What this rests on", lines=list(_ground(made.field))),
    ]


def write(made: Comparison) -> str:
    """The comparison in Markdown."""
    sections = [f"# {title(made)}", "![The fronts](comparison.png)"]
    for part in parts(made):
        sections.append(f"## {part.title}")
        sections += [table(part.head, part.rows)] if part.rows else []
        sections += [bullets(part.lines)] if part.lines else []
    return "\n\n".join(sections) + "\n"


def numbers(made: Comparison) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "compared": made.field.meaning,
        "normalised": made.field.normalised,
        "reference": {
            made.field.y.name: made.field.y.value(made.field.reference[0]),
            "log2_ratio": -made.field.reference[1],
        },
        "hypervolumes": dict(made.volumes),
        "differences": [asdict(one) for one in made.differences],
        "differences_over_repeats": [asdict(one) for one in made.over_repeats],
        "places": [asdict(one) for one in made.places],
        "fronts": list(made.members()),
    }


def _value(field: Field, number: float | None) -> str:
    if number is None:
        return ""
    if field.normalised:
        return f"{100 * number:+.2f} {'pp' if field.y.is_fraction else '%'}"
    return units.value(field.y, number)


def _volumes(made: Comparison) -> _Table:
    rows = [
        (
            safe(rival.name),
            f"{made.volumes[rival.name]:.4f}",
            f"{len(rival.rows):,}",
            str(len(rival.front)),
        )
        for rival in made.field.rivals
    ]
    return ("study", "hypervolume", "trials", "on its front"), rows


def _differences(made: Comparison) -> Iterator[str]:
    for one in made.over_repeats:
        yield (
            f"{safe(one.first)} less {safe(one.second)}, means of repeated studies: "
            f"{_difference(one, 95)}. This interval is over repeats (Welch), whatever their seeds "
            "vary."
        )
    for one in made.differences:
        yield f"{safe(one.first)} less {safe(one.second)}: {_difference(one, 90)}."
    if not made.differences:
        return
    yield (
        "Intervals of single studies are over trials: "
        f"{DRAWS:,} times, as many as each has are drawn again from its own, and the spread of "
        "the difference is laid around the one measured. They show how far it hangs on few lucky "
        "trials. They are too short to tell which search is better: studies that differ in "
        "nothing but their seed often lie further apart. For that, compare repeats of each."
    )


def _difference(one: Difference, confidence: int) -> str:
    zero = "0 is within it" if one.low <= 0 <= one.high else "0 is outside of it"
    return (
        f"**{one.value:+.4f}**, {confidence}% interval {one.low:+.4f} to {one.high:+.4f} ({zero})"
    )


def _places(made: Comparison) -> _Table:
    field = made.field
    head = ("ratio at least", *(safe(rival.name) for rival in field.rivals), "ahead", "by")
    rows = [
        (
            f"{place.ratio:g}×",
            *(_value(field, best) for best in place.best),
            " = ".join(safe(name) for name in place.leaders),
            _lead(field, place),
        )
        for place in made.places
    ]
    return head, rows


def _lead(field: Field, place: Place) -> str:
    if place.lead is None:
        return "alone there" if len(place.leaders) == 1 else "level"
    unit = Objective("lead", unit="fraction") if field.normalised else field.y
    return units.difference(unit, place.lead)


def _beaten(field: Field) -> _Table:
    names = [rival.name for rival in field.rivals]
    lost = {(name, by): f"{count} of {points}" for name, by, count, points in beaten(field)}
    head = ("of the front of", *(f"by {safe(name)}" for name in names))
    return head, [(safe(n), *(lost.get((n, by), "") for by in names)) for n in names]


def _ground(field: Field) -> Iterator[str]:
    y = field.y
    corner = _value(field, y.value(field.reference[0]))
    yield (
        f"Hypervolume: area of {safe(field.meaning)} times doublings of the ratio, above {corner} "
        f"and ratio {2 ** -field.reference[1]:.3g}, one corner for all."
    )
    yield (
        "Scores are of the validation split, on which the searches chose: the best of many is "
        "inflated, in each study alike if they ran equally many trials. Test was not read."
    )
    yield (
        "Fronts are over each search's own trials that have a file, stopped ones as they are; "
        "runs with other seeds and constraints are left out."
    )
    if field.normalised:
        yield (
            "Tasks, splits or baselines were allowed to differ: each metric is held against that "
            "of the study's own dense model, and points on one axis are not scores of the same "
            "questions."
        )

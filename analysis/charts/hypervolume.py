"""What a search gained by going on: the front's hypervolume by trials and by training time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis import units
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.findings import Findings
from analysis.growth import Staircase
from analysis.load import Row
from analysis.reference import Corner, corner, losses

__all__ = ["Step", "growth", "growth_panels", "hypervolume_by_effort"]

Effort = tuple[tuple[float, float] | None, float | None]
"""A trial: its losses, None where nothing came of it, and its seconds, None where unknown."""


@dataclass(frozen=True)
class Step:
    """The hypervolume from a trial on: trials and seconds up to its end."""

    trials: int
    seconds: float
    volume: float


def hypervolume_by_effort(found: Findings) -> Chart | None:
    """Hypervolume against trials and seconds of training; None where nothing came to be."""
    rows = sorted((r for r in found.study.rows if r.role == "search"), key=lambda r: r.number)
    at = corner([found.study], found.y)
    if at is None or not rows:
        return None
    efforts = [(losses(row, found.y), row.record.outcome.seconds) for row in rows]
    steps = growth(efforts, at.loss(found.y))
    if not steps[-1].volume:
        return None
    timed = any(seconds is not None for _, seconds in efforts)
    return Chart(
        "What further trials gained",
        _note(found, at, rows if timed else ()),
        growth_panels({"this study": steps}, timed),
        columns=2,
    )


def growth(efforts: Iterable[Effort], reference: tuple[float, float]) -> list[Step]:
    """The start, every trial that made the front larger, and the end."""
    front, spent, steps = Staircase(reference), 0.0, [Step(0, 0.0, 0.0)]
    last = steps[0]
    for count, (point, seconds) in enumerate(efforts, 1):
        spent += seconds or 0.0
        grew = point is not None and front.add(point)
        last = Step(count, spent, front.area)
        if grew:
            steps.append(last)
    return steps if steps[-1] is last else [*steps, last]


def growth_panels(studies: Mapping[str, Sequence[Step]], timed: bool) -> list[Panel]:
    """A step line a study, by trials and, where their time is known, by seconds."""
    axes = {"by trials": Scale("trials")}
    if timed:
        axes["by cost"] = Scale("seconds of training, all trials together")
    return [
        Panel(title, x, Scale("hypervolume"), [_line(n, s, title) for n, s in studies.items()])
        for title, x in axes.items()
    ]


def _line(name: str, steps: Sequence[Step], by: str) -> Series:
    x = [float(step.trials) if by == "by trials" else step.seconds for step in steps]
    texts = [f"after {units.counted(step.trials, 'trial')}, {step.seconds:.4g} s" for step in steps]
    return Series(name, Mark.STEP, x, [step.volume for step in steps], texts=texts)


def _note(found: Findings, at: Corner, timed: Sequence[Row]) -> str:
    text = (
        f"Area of {units.name(found.y)} times doublings of the ratio that the front dominates, "
        f"above {units.value(found.y, at.value)} and ratio {2**at.log2_ratio:.3g}, "
    )
    text += (
        "the study's reference."
        if at.stated
        else "the worst that was measured: as the study states no reference for this metric, the "
        "area is not to be compared with that of another study."
    )
    text += " Trials in the order in which they were suggested; failed ones count as trials."
    if untimed := sum(row.record.outcome.seconds is None for row in timed):
        text += f" {units.counted(untimed, 'trial')} without a time stand in no second."
    if found.study.info.get("constraints"):
        text += " Constraints are not applied."
    return text

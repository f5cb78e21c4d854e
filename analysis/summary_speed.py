"""The section of `summary.md` on the time and memory of the front's models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.findings import Findings
from analysis.load import SPEED, StudyDataError
from analysis.markup import safe, table

__all__ = ["speed_section"]

_HEAD = ("trial", "setting", "form", "batch", "ms", "of dense", "verdict", "keeps MB", "peak MB")


def speed_section(found: Findings) -> str:
    """What ``python -m study.speed`` measured: a row a model, form and batch.

    Raises:
        StudyDataError: `speed.json` is not as that command writes it.
    """
    speed = found.study.speed
    try:
        rows = [row for point in speed["points"] for row in _rows(point)]
        reading = (
            f"Measured {safe(speed['at'])} on {safe(speed['machine'])}: the file's model with its "
            "weights decoded once, or packed, in turn with the dense one; median and quartiles. "
            "Faster or slower where three of four calls are; MB that tensors hold, between calls "
            "and at most."
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = f"{found.study.location}/{SPEED}: not as study.speed writes it: {error!r}"
        raise StudyDataError(text) from error
    return "\n\n".join(["## Speed and memory", reading, table(_HEAD, rows)])


def _rows(point: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, form in point["forms"].items():
        for call in form["calls"]:
            took, gain = call["milliseconds"], call["gain"]
            alone = name == "dense"
            yield [
                f"`{point['trial_id']}`",
                safe(point["setting"]),
                safe(name),
                f"{call['batch']:d}",
                f"{took['median']:.3f} [{took['low']:.3f}, {took['high']:.3f}]",
                "" if alone else f"{gain['median']:.2f}×",
                "" if alone else safe(call["verdict"]),
                f"{form['resident_bytes'] / 1e6:.3f}",
                f"{call['peak_bytes'] / 1e6:.3f}",
            ]

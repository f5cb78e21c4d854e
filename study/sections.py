"""Sections of a config that need nothing of the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, PlainValidator, StrictInt

from analysis.published import SYSTEMS
from compression.registry import UnknownName
from study.amounts import parse_fraction, parse_gpus
from study.choices import Located

Count = Annotated[StrictInt, Field(gt=0)]


def parse_systems(value: object) -> tuple[str, ...]:
    """Published systems whose points a report shows: one name or a list of them.

    Raises:
        Located: an unknown name, or one that is there twice.
    """
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    problems: list[tuple[tuple[int, ...], str]] = []
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in SYSTEMS:
            problems.append(((index,), str(UnknownName("published system", name, SYSTEMS))))
        elif name in names[:index]:
            problems.append(((index,), f"{name}: named twice"))
    if problems:
        raise Located(problems)
    return names


Systems = Annotated[tuple[str, ...], PlainValidator(parse_systems)]


def as_written(value: Any) -> Any:
    """A default spelled as in YAML, and parsed like it."""
    return Field(default=value)


class Section(pydantic.BaseModel):
    """Keys with values; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Keep(Section):
    """Which artifacts are kept: the front's, and those within ``margin`` of it in the metric.

    A margin is points of a fraction (``1pp``), and a share of any other metric (0.01: 1% of it).
    """

    margin: Annotated[float, PlainValidator(parse_fraction)] = 0.01


class Resources(Section):
    """What one trial gets of a machine. A budget: it is no part of what a trial is.

    ``cpus`` is also how many threads it computes with. ``gpus`` may be a fraction: several trials
    share a card then. ``auto`` is none on a machine without; else as small a fraction as a measured
    training step leaves room for.
    """

    cpus: Count = 1
    gpus: Annotated[float | Literal["auto"], PlainValidator(parse_gpus)] = "auto"


class Calibrate(Section):
    """What methods and inits that need it may see: so many ``samples`` of the train split."""

    samples: Count = 256

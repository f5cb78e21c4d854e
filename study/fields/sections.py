"""Sections of a config that need nothing of the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, PlainValidator, StrictInt

from analysis.published import SYSTEMS
from compression.registry import UnknownName
from study.fields.amounts import parse_fraction, parse_gpus, parse_percent
from study.fields.choices import Located

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


def parse_texts(value: object) -> tuple[str, ...]:
    """One text or a list of them.

    Raises:
        Located: something that is none.
    """
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    if problems := [
        ((index,), f"expected text, got {text!r}")
        for index, text in enumerate(texts)
        if not isinstance(text, str)
    ]:
        raise Located(problems)
    return texts


Texts = Annotated[tuple[str, ...], PlainValidator(parse_texts)]
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


def _part(value: object) -> float:
    share = parse_fraction(value)
    if share == 1:
        raise ValueError("expected less than 1: nothing would be left for the search")
    return share


class Confirm(Section):
    """How often what is on the front, or ``within`` so much of it, is run with other seeds.

    ``seeds`` are the runs of a point, the search's own among them; ``within`` is read as
    :attr:`Keep.margin`. ``share`` of a time budget is kept for it.
    """

    seeds: Annotated[StrictInt, Field(ge=2)] = 5
    within: Annotated[float, PlainValidator(parse_fraction)] = 0.01
    share: Annotated[float, PlainValidator(_part)] = 0.25


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


class Patience(Section):
    """When to stop waiting: the front's hypervolume has not grown by ``gain`` in so many trials."""

    trials: Count = 40
    gain: Annotated[float, PlainValidator(parse_percent)] = 0.01


def budget_problems(
    resources: Resources, accelerator: float | None, money: float | None, price: float | None
) -> dict[tuple[str, ...], list[str]]:
    """Budgets that cannot be counted, by key."""
    found: dict[tuple[str, ...], list[str]] = {}
    if money is not None and price is None:
        text = "money is counted by the hour: set price_per_hour, of all machines together"
        found["money_budget",] = [text]
    if accelerator is not None and resources.gpus == 0:
        text = "trials get no GPU (resources.gpus: 0): set time_budget instead, or give them one"
        found["accelerator_budget",] = [text]
    return found

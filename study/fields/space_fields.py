"""The kinds of values that a config's search space has."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator

from compression.registry import Domain, FloatRange, IntRange
from study.fields.choices import parse_domain, parse_options
from study.space.options import Option


def options(axis: str) -> PlainValidator:
    """Reads the options of an axis."""
    return PlainValidator(lambda value: parse_options(axis, value))


def options_or_none(axis: str) -> PlainValidator:
    """Reads the options of an axis, where there are any."""
    return PlainValidator(lambda value: None if value is None else parse_options(axis, value))


def _domain(valid: IntRange | FloatRange) -> PlainValidator:
    return PlainValidator(lambda spec: parse_domain(spec, valid))


def _domain_or_none(valid: FloatRange) -> PlainValidator:
    return PlainValidator(lambda spec: None if spec is None else parse_domain(spec, valid))


Options = tuple[Option, ...]
Ranks = Annotated[Domain, _domain(IntRange(1, 65_536))]
Batches = Annotated[Domain, _domain(IntRange(1, 1_000_000))]
Alphas = Annotated[Domain | None, _domain_or_none(FloatRange(1e-6, 1e6))]

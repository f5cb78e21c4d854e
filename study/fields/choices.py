"""What a config says of plugins and their knobs, from plain YAML data to types and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pydantic

from compression.registry import (
    Domain,
    FloatRange,
    IntRange,
    InvalidSetting,
    Knob,
    Plugin,
    Registry,
    Text,
    UnknownName,
    Values,
)
from study.fields.yaml_lines import Path
from study.plugins import PluginFile
from study.space.options import AXES, SEVERAL, Option, knobs_of, option_problems

P = TypeVar("P", bound=Plugin)


class Located(ValueError):
    """Problems inside one value, each with its path from there."""

    def __init__(self, problems: Iterable[tuple[Path, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(message for _, message in self.problems))


class _Problems:
    """Gathers what goes wrong in several places, to raise it all at once."""

    def __init__(self) -> None:
        self.found: list[tuple[Path, str]] = []

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        try:
            yield
        except Located as error:
            self.found += [((*path, *inner), message) for inner, message in error.problems]
        except InvalidSetting as error:
            self.found += [(path, message) for message in error.errors]

    def finish(self) -> None:
        if self.found:
            raise Located(self.found)


def parse_plugin(registry: Registry[P], item: object) -> P:
    """A plugin from its name, ``{name: {knob: value}}``, or itself.

    Raises:
        Located: every knob that is unknown or has a wrong value.
    """
    if isinstance(item, registry.base):
        return item
    name, given = _named(registry, item)
    known, problems, args = registry[name].knobs(), _Problems(), {}
    for key, value in given.items():
        with problems.at(name, key):
            args[key] = _fixed(value, _knob(name, key, known))
    problems.finish()
    return registry.build(name, args)


def parse_options(axis: str, value: object) -> tuple[Option, ...]:
    """One option or a list of them, each plugin once.

    Raises:
        Located: as :func:`parse_option`, for all of them at once; an empty list, a repeated name.
    """
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not items:
        raise Located([((), f"the list is empty; expected at least one {AXES[axis].kind}")])
    problems, options = _Problems(), dict[str, Option]()
    for index, item in enumerate(items):
        with problems.at(index):
            option = parse_option(axis, item)
            if option.name in options:
                raise InvalidSetting([f"{option.name}: named twice; put its values in one place"])
            options[option.name] = option
    problems.finish()
    return tuple(options.values())


def parse_option(axis: str, item: object) -> Option:
    """One plugin to try, its knobs narrowed to what ``{name: {knob: domain}}`` says.

    Raises:
        Located: an unknown knob, a wrong domain, a knob without effect, or a combination that the
            plugin refuses.
    """
    if isinstance(item, Option):
        return item
    if axis in SEVERAL and isinstance(item, list | tuple):
        return _parse_chain(axis, item)
    registry = AXES[axis]
    name, given = _named(registry, item)
    known, problems, domains = knobs_of(registry[name]), _Problems(), {}
    for key, spec in given.items():
        with problems.at(name, key):
            domains[key] = parse_domain(spec, _knob(name, key, known).valid)
    problems.finish()
    option = Option(name, domains)
    with problems.at(name):
        if refused := option_problems(axis, option):
            raise InvalidSetting(refused)
    problems.finish()
    return option


def _parse_chain(axis: str, items: Sequence[object]) -> Option:
    """A list inside the list of an axis: plugins that work together, in this order."""
    problems, parts = _Problems(), list[Option]()
    for index, item in enumerate(items):
        with problems.at(index):
            parts.append(parse_option(axis, item))
    problems.finish()
    names, kind = [part.name for part in parts], AXES[axis].kind
    if len(parts) < 2:
        raise Located([((), f"a chain needs two or more of the kind {kind}, got {plain(parts)}")])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Located([((), f"{', '.join(twice)}: twice in one chain")])
    if axis != "method" and (idle := SEVERAL[axis]) in names:
        raise Located([((), f"{idle}: has no effect beside another {kind}; leave it out")])
    option = Option.chain(parts)
    if refused := option_problems(axis, option):
        raise Located([((), text) for text in refused])
    return option


def parse_domain(spec: object, valid: Domain | Text) -> Domain:
    """What a study tries of a knob: a list of choices, ``{low, high, log}``, or one value.

    Raises:
        InvalidSetting: an empty list, a value outside ``valid``, a repeated one, a bad range.
    """
    if isinstance(spec, Values | type(valid)) and isinstance(spec, Domain):
        return spec
    if isinstance(spec, Mapping):
        return _range(spec, valid)
    values: list[Any] = list(spec) if isinstance(spec, list | tuple) else [spec]
    if not values:
        raise InvalidSetting(["the list is empty; expected at least one value"])
    if errors := [p for v in values if (p := valid.problem(v))]:
        raise InvalidSetting(errors)
    # One type a knob: 1 and 1.0 would be two names of one trial.
    typed = [float(v) if isinstance(valid, FloatRange) else v for v in values]
    if len(set(typed)) < len(typed):
        raise InvalidSetting([f"a value is given twice in {values}"])
    return Values(tuple(typed))


def _range(spec: Mapping[str, Any], valid: Domain | Text) -> Domain:
    if isinstance(valid, Values):
        raise InvalidSetting(
            [f"takes no range; expected some of {', '.join(map(str, valid.values))}"]
        )
    if isinstance(valid, Text):
        raise InvalidSetting([f"takes no range; expected {valid.what}, or a list of them"])
    errors = [
        UnknownName("key", key, ("low", "high", "log")).errors[0]
        for key in spec
        if key not in ("low", "high", "log")
    ]
    errors += [f"'{key}' is missing from the range" for key in ("low", "high") if key not in spec]
    low, high, log = spec.get("low"), spec.get("high"), spec.get("log", False)
    errors += [f"{k}: {p}" for k in ("low", "high") if k in spec and (p := valid.problem(spec[k]))]
    if not isinstance(log, bool):
        errors.append(f"log: expected true or false, got {log!r}")
    if errors:
        raise InvalidSetting(errors)
    if low > high:  # type: ignore[operator]
        raise InvalidSetting([f"low is above high: {low} > {high}"])
    if log and low <= 0:  # type: ignore[operator]
        raise InvalidSetting([f"a logarithmic range needs low above 0, got {low}"])
    if isinstance(valid, FloatRange):
        return FloatRange(float(low), float(high), log)  # type: ignore[arg-type]
    return type(valid)(low, high, log)  # type: ignore[arg-type]


def _named(registry: Registry[Any], item: object) -> tuple[str, Mapping[str, Any]]:
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, given),) = item.items()
    else:
        name, given = item, {}
    if not isinstance(name, str):
        expected = f"expected the name of a {registry.kind}, or {{name: {{knob: value}}}}"
        raise Located([((), f"{expected}, got {item!r}")])
    if name not in registry:
        raise Located([((), str(UnknownName(registry.kind, name, registry)))])
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise Located([((name,), f"expected knobs with their values, got {given!r}")])
    return name, given


def _knob(name: str, key: str, known: Mapping[str, Knob]) -> Knob:
    if key not in known:
        raise UnknownName(f"knob of {name}", key, known or ["(none)"])
    if known[key].found:
        raise InvalidSetting(["is found while compressing, and cannot be asked for"])
    return known[key]


def _fixed(value: object, knob: Knob) -> Any:
    if problem := knob.valid.problem(value):
        raise InvalidSetting([problem])
    return float(value) if isinstance(knob.valid, FloatRange) else value  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """The inverse of parsing: plain data that parses to the same."""
    if isinstance(value, Plugin):
        args = value.args()
        return {value.name: args} if args else value.name
    if isinstance(value, Option):
        if value.parts:
            return [plain(part) for part in value.parts]
        knobs = {k: plain(v) for k, v in value.domains.items()}
        return {value.name: knobs} if knobs else value.name
    if isinstance(value, Values):
        return list(value.values)
    if isinstance(value, IntRange | FloatRange):
        return {"low": value.low, "high": value.high, "log": value.log}
    if isinstance(value, PluginFile):
        return value.name
    if isinstance(value, pydantic.BaseModel):
        return plain(dict(value))
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value

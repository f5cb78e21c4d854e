"""Frozen dataclasses to JSON and back without loss, and the canonical spelling that ids hash.

Standard library only. Canonical JSON leaves defaults out, so that an identity survives a field that
is added later; numpy scalars are refused, because they look alike but hash otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

Scalar = bool | int | float | str
T = TypeVar("T")


class RecordError(ValueError):
    """A record, or a part of one, breaks its own rule; the message names the field."""


def require(condition: bool, message: str) -> None:
    """Raise :class:`RecordError` unless ``condition`` holds."""
    if not condition:
        raise RecordError(message)


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """Plain data from JSON; without ``finite`` numbers may also be NaN or infinite.

    Raises:
        RecordError: it is no such JSON, or nested too deeply to be read.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()  # strictly: json itself lets halves of surrogate pairs through
        found = json.loads(text, parse_constant=_refuse if finite else None)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise RecordError("is not JSON: nested too deeply") from None
    except ValueError as error:  # bytes that are no text, and integers without end, too
        raise RecordError(f"is not JSON: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def shown(value: object) -> str:
    """A wrong value in an error: all of a short one, the outside of a long or deep one."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def check_scalar(value: object, where: str) -> None:
    """Refuse everything but finite plain Python scalars."""
    require(
        type(value) in (bool, int, float, str),
        f"{where}: expected bool, int, float or str, got {type(value)}",
    )
    require(not isinstance(value, float) or math.isfinite(value), f"{where}: {value} is not finite")


def plain_float(value: Any, where: str) -> float:
    """A finite number as a float: 1 and 1.0 must not be two identities."""
    if type(value) not in (int, float):
        raise RecordError(f"{where}: expected a number, got {shown(value)}")
    check_scalar(value, where)
    return float(value)


def to_json(value: Any) -> Any:
    """Plain dicts, lists and scalars; fields at their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json(getattr(value, f.name))
            for f in fields(value)
            if not _is_default(f, getattr(value, f.name))
        }
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, StrEnum):
        return None if value is None else value.value
    check_scalar(value, "value")
    return value


def _is_default(f: Any, value: Any) -> bool:
    if f.default is not MISSING:
        return type(value) is type(f.default) and bool(value == f.default)
    if f.default_factory is not MISSING:
        return bool(value == f.default_factory())
    return False


def canonical(value: Any, leave_out: Iterable[str] = ()) -> str:
    """The one spelling of a value: sorted keys, no spaces, defaults left out, floats by repr."""
    data = to_json(value)
    for key in leave_out:
        data.pop(key, None)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """The inverse of :func:`to_json`.

    Raises:
        RecordError: an unknown or missing field, a wrong type, or a broken rule; names the field.
    """
    try:
        found: T = _reader(cls)(data)  # type: ignore[arg-type]
    except _Wrong as wrong:
        raise RecordError(f"{where or cls.__name__}{wrong.path}: {wrong.text}") from None
    return found


class _Wrong(Exception):
    """A value of the wrong form. The ``path`` to it grows while it is passed up."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text, self.path = text, ""

    def within(self, step: str) -> _Wrong:
        self.path = step + self.path
        return self


_Reader = Callable[[Any], Any]


@cache
def _reader(hint: Any) -> _Reader:
    """What makes a value of a type from plain data: put together once, for logs hold many."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        plain = [a for a in args if a is not type(None)]
        inner = _reader(plain[0]) if len(plain) == 1 else _scalar(plain)
        return _optional(inner) if type(None) in args else inner
    if origin is tuple:
        return _several(_reader(args[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(_reader(args[1]))
    if is_dataclass(hint):
        return _object(typing.cast(type, hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word(hint)
    return _scalar([hint])


def _object(cls: type) -> _Reader:
    hints, known = typing.get_type_hints(cls), {f.name: f for f in fields(cls)}
    readers = {name: _reader(hints[name]) for name in known}
    needed = {
        name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING
    }

    def read(data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise _Wrong(f"expected an object, got {shown(data)}")
        if unknown := data.keys() - readers.keys():
            raise _Wrong(f"unknown field {', '.join(sorted(unknown))[:200]}")
        values = dict[str, Any]()
        for name, value in data.items():
            try:
                values[name] = readers[name](value)
            except _Wrong as wrong:
                raise wrong.within(f".{name}") from None
        if missing := needed - values.keys():
            raise _Wrong(f"missing field {', '.join(name for name in known if name in missing)}")
        return cls(**values)

    return read


def _mapping(inner: _Reader) -> _Reader:
    def read(data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            raise _Wrong(f"expected an object, got {shown(data)}")
        found = {}
        for key, value in data.items():
            try:
                found[key] = inner(value)
            except _Wrong as wrong:
                raise wrong.within(f".{key}") from None
        return found

    return read


def _several(inner: _Reader) -> _Reader:
    def read(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple):
            raise _Wrong(f"expected a list, got {shown(data)}")
        found = []
        for index, value in enumerate(data):
            try:
                found.append(inner(value))
            except _Wrong as wrong:
                raise wrong.within(f"[{index}]") from None
        return tuple(found)

    return read


def _optional(inner: _Reader) -> _Reader:
    return lambda value: None if value is None else inner(value)


def _word(words: type[StrEnum]) -> _Reader:
    known = {word.value: word for word in words}

    def read(value: Any) -> StrEnum:
        if not isinstance(value, str) or value not in known:
            raise _Wrong(f"expected one of {', '.join(known)}, got {shown(value)}")
        return known[value]

    return read


def _scalar(allowed: list[Any]) -> _Reader:
    names, kinds = ", ".join(a.__name__ for a in allowed), frozenset(allowed)
    widens = float in kinds and int not in kinds

    def read(value: Any) -> Any:
        if type(value) in kinds:
            return value
        if widens and type(value) is int:
            return float(value)
        raise _Wrong(f"expected {names}, got {shown(value)}")

    return read


def digest(texts: Iterable[str]) -> str:
    """16 hex digits of SHA-256 over the texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

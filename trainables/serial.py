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
from collections.abc import Iterable, Mapping
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
    require(type(value) in (int, float), f"{where}: expected a number, got {shown(value)}")
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


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """The inverse of :func:`to_json`.

    Raises:
        RecordError: an unknown or missing field, a wrong type, or a broken rule; names the field.
    """
    where = where or cls.__name__
    require(isinstance(data, Mapping), f"{where}: expected an object, got {shown(data)}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(known)):
        raise RecordError(f"{where}: unknown field {', '.join(unknown)[:200]}")
    hints = _hints(cls)  # type: ignore[arg-type]
    values = {k: _convert(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    missing = [
        k
        for k, f in known.items()
        if k not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    require(not missing, f"{where}: missing field {', '.join(missing)}")
    return cls(**values)


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        plain = [a for a in args if a is not type(None)]
        return _convert(plain[0], value, where) if len(plain) == 1 else _scalar(plain, value, where)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where}: expected a list, got {shown(value)}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        require(isinstance(value, Mapping), f"{where}: expected an object, got {shown(value)}")
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        require(
            value in list(hint), f"{where}: expected one of {', '.join(hint)}, got {shown(value)}"
        )
        return hint(value)
    return _scalar([hint], value, where)


def _scalar(allowed: list[Any], value: Any, where: str) -> Any:
    if float in allowed and type(value) is int and int not in allowed:
        return float(value)
    names = ", ".join(a.__name__ for a in allowed)
    require(type(value) in allowed, f"{where}: expected {names}, got {shown(value)}")
    return value


def digest(texts: Iterable[str]) -> str:
    """16 hex digits of SHA-256 over the texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

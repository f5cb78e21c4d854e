"""What a ``study.json`` must look like, as far as anything is read of it.

A file may lack any of these: earlier versions wrote fewer. What it has must be of the right form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainables.record import Direction

_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


LONGEST = 200


def is_name(value: Any) -> bool:
    """Whether a study's name is one part of a path, that leads neither up nor elsewhere."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST
        and value not in (".", "..")
        and value.isprintable()
        and not set(value) & set("/\\")
    )


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _all(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _each(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields(needed: Mapping[str, _Check], optional: Mapping[str, _Check] | None = None) -> _Check:
    def check(value: Any) -> bool:
        if not isinstance(value, dict) or not value.keys() >= needed.keys():
            return False
        known = {**needed, **(optional or {})}
        return all(test(value[key]) for key, test in known.items() if key in value)

    return check


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _anything(value: Any) -> bool:
    return True


def _scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


_DEFAULT = _fields({"value": _scalar}, {"when": _each(_all(_scalar))})
_OBJECTIVE = _fields(
    {"name": _text, "direction": lambda value: value in list(Direction)}, {"unit": _text}
)
_CONFIG = _fields(
    {},
    {
        "plugins": _all(_text),
        "published": _all(_text),
        "resources": _fields({}, {"cpus": _count}),
    },
)
_WARM = _fields(
    {
        "source": _text,
        "location": _text,
        "taken_over": _count,
        "start_points": _all(_each(_anything)),
        "dropped": _each(_all(_text)),
    }
)
_FORMS: dict[str, tuple[_Check, str]] = {
    "name": (is_name, "one part of a path, without / and \\"),
    "task": (_text, "text"),
    "seed": (_count, "a whole number from 0"),
    "objectives": (_all(_OBJECTIVE), "a list of objects with name, direction and unit"),
    "constraints": (_all(_text), "a list of texts"),
    "shortfall": (_or_none(_text), "text"),
    "defaults": (_each(_each(_each(_DEFAULT))), "options by axis and plugin, each with its value"),
    "config": (_CONFIG, "the study's settings"),
    "splits": (_each(_each(_anything)), "an object of objects"),
    "counts": (_each(_count), "an object of counts"),
    "versions": (_each(_text), "an object of texts"),
    "plugins": (_each(_text), "an object of texts"),
    "test_reads": (_all(_each(_anything)), "a list of objects"),
    "warm_start": (_or_none(_WARM), "what the study began with"),
}


def problems(info: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the content of a ``study.json``."""
    for key, (check, form) in _FORMS.items():
        if key in info and not check(info[key]):
            yield f"{key}: expected {form}"

"""Events as earlier versions of this program wrote them, made into those of today.

A new field needs no step if its default says what was true before; a new meaning does. Each step
takes the JSON of an event one version further. A line names its version from the second one on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainables.serial import RecordError, shown

Step = Callable[[dict[str, Any]], dict[str, Any]]

KEY = "v"
STEPS: tuple[Step, ...] = ()  # the first is from version 1 to 2


def version() -> int:
    """That of the events written today."""
    return 1 + len(STEPS)


def marked(data: dict[str, Any]) -> dict[str, Any]:
    """Today's JSON of an event, with its version."""
    return {**data, KEY: version()} if STEPS else data


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of an event of any version, as today's; without the mark.

    Raises:
        RecordError: a later version of this program wrote it.
    """
    data = dict(data)
    found = data.pop(KEY, 1)
    if type(found) is not int or found < 1:
        raise RecordError(f"event: {shown(found)} is no version")
    if found > version():
        raise RecordError(
            f"event: of version {shown(found)}; this program reads up to {version()}: "
            "upgrade Paretune"
        )
    for step in STEPS[found - 1 :]:
        data = step(data)
    return data

"""What is wrong with a config, as lines for people: file, line, key, what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from compression.registry import InvalidSetting, UnknownName
from study.fields import yaml_lines
from study.fields.choices import Located
from trainables.tasks import TASKS

Sections = Mapping[str, type[BaseModel]]


def lines(error: ErrorDetails, document: yaml_lines.Document, sections: Sections) -> Iterator[str]:
    """The lines of one of pydantic's errors. ``sections`` are by their keys; "" is the whole."""
    path = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Located):
        for inner, message in cause.problems:
            yield f"{place(document, (*path, *inner))}: {message}"
    elif isinstance(cause, InvalidSetting):
        yield from (f"{place(document, path)}: {message}" for message in cause.errors)
    else:
        yield f"{place(document, path)}: {cause or _said(error, sections)}"


def _said(error: ErrorDetails, sections: Sections) -> str:
    """Pydantic's own errors in the words of the others."""
    *parents, key = error["loc"]
    if error["type"] == "extra_forbidden":
        near = (sections[str(p)] for p in reversed(parents) if p in sections)
        section = next(near, sections[""])
        return UnknownName("key", key, section.model_fields).errors[0]
    if error["type"] == "missing":
        return f"is missing; expected one of {', '.join(TASKS)}"
    message = error["msg"].replace("Input should be", "expected")
    message = message.replace("expected greater", "expected a number greater")
    return f"{message.replace('String should', 'expected text to')}, got {error['input']!r}"


def place(document: yaml_lines.Document, path: yaml_lines.Path) -> str:
    """``FILE:LINE: key``."""
    words = ".".join(str(part) for part in path if isinstance(part, str))
    return f"{document.where(path)}: {words}"

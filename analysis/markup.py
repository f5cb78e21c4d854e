"""Markdown: tables, bullets, and text of users that must not become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["Span", "bullets", "safe", "spans", "table", "typed"]

Span = tuple[str, str]
_INLINE = re.compile(r"\\(.)|\*\*|`([^`]*)`|[^\\*`]+|.")


def safe(text: object) -> str:
    """Text of users as Markdown shows it: no markup, one line."""
    plain = " ".join(str(text).split())
    for mark in ("\\", "`", "*", "_", "|", "<", ">", "[", "]"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def bullets(lines: Iterable[str]) -> str:
    """A list, a line an item."""
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, a line a row."""
    lines = [list(head), ["---"] * len(head)]
    lines += [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spans(text: str) -> list[Span]:
    """One line of a summary as pieces of text with their style: '', ``strong`` or ``code``.

    The inverse of what a summary writes: ``spans(safe(text))`` is the text itself, unstyled.
    """
    found: list[Span] = []
    style = ""
    for match in _INLINE.finditer(text):
        escaped, code = match.groups()
        if match[0] == "**":
            style = "" if style else "strong"
        elif code is not None:
            found.append(("code", code))
        elif found and found[-1][0] == style:
            found[-1] = (style, found[-1][1] + (escaped or match[0]))
        else:
            found.append((style, escaped or match[0]))
    return found


def typed(name: str) -> str:
    """A name as a command takes it; '' where that would need quotes."""
    return name if re.fullmatch(r"\w[\w.-]*", name, re.ASCII) else ""

"""Markdown: tables, bullets, and text of users that must not become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["bullets", "safe", "table"]


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

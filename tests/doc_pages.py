"""Reads the pages of the docs: their blocks of code, their links, the commands that they name.

A page says in HTML comments what is to be done with its blocks:

``<!-- after: first-study.md -->`` at its top: it goes on in the folder of that page.
``<!-- file: NAME -->`` above a block: it is saved as that file.
``<!-- not run: REASON -->`` above a block: it is only read; the reason is one of the test's list.
``<!-- exit: N -->`` above a block: its command ends with that exit code; of ``N or M`` with either.

Without a comment, ``bash`` and ``python`` are run, of ``console`` each line after ``$``, and a
``yaml`` block is part of a study's config. Below its ``$`` line, ``console`` shows lines of what
the command prints, in their order: figures may be others, and ``...`` stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(
    r"^(?P<notes>(?:<!-- [^\n]*? -->\n)*)"
    r"(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- ([a-z ]+): (.*?) -->")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its notes, and the line that it begins in."""

    language: str
    text: str
    notes: Mapping[str, str]
    line: int

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """What a shell is given, each with the lines that are shown of its output."""
        if self.language != "console":
            yield self.text, []
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, [line for line in shown.splitlines() if line.strip() not in ("", "...")]


@dataclass(frozen=True)
class Page:
    """A page of Markdown, by its path from the project's root."""

    path: str

    @cached_property
    def text(self) -> str:
        """All of it."""
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Fenced blocks in their order."""
        return [
            Block(
                found["language"],
                found["text"],
                dict(_NOTE.findall(found["notes"])),
                self.text.count("\n", 0, found.start("fence")) + 1,
            )
            for found in _FENCE.finditer(self.text)
        ]

    @property
    def after(self) -> Page | None:
        """The page in whose folder this one goes on."""
        name = dict(_NOTE.findall(self.text.partition("\n#")[0])).get("after")
        return Page(str(Path(self.path).parent / name)) if name else None

    @cached_property
    def prose(self) -> str:
        """The page without its blocks."""
        return _FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Code within sentences."""
        return [" ".join(text.split()) for _, text in _SPAN.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        return _LINK.findall(_SPAN.sub("", self.prose))

    @property
    def anchors(self) -> set[str]:
        """Of its headings, as GitHub makes them."""
        heads = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def pages() -> list[Page]:
    """The README and all of docs/."""
    files = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Page(str(file.relative_to(ROOT))) for file in files]


def shows(line: str, printed: str) -> bool:
    """Whether a line of output is the one that a page shows, figures apart."""
    words = re.split(r"(\.\.\.|\d[\d,.]*|\s+)", line.strip())
    return re.fullmatch("".join(map(_pattern, words)), printed.strip()) is not None


def _pattern(word: str) -> str:
    if word == "...":
        return ".*"
    if word.isspace():
        return r"\s+"
    return r"\d[\d,.]*" if word[:1].isdigit() else re.escape(word)

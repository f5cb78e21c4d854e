"""Which published methods are here: ``python -m study.coverage`` prints docs/coverage.md.

Nothing in the table is written by hand. The catalogue's rows are names and titles of papers; what
implements one says so itself (``catalogue_id``), and its file is where its class stands.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import click

from compression.adapters import ADAPTERS
from compression.allocation import ALLOCATORS
from compression.edits import EDITS
from compression.inits import INITS
from compression.methods import METHODS
from compression.registry import Registry
from trainables.hooks import HOOKS
from trainables.losses import LOSSES
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS
from trainables.recipes import RECIPES

REGISTRIES: tuple[Registry[Any], ...] = (
    METHODS,
    INITS,
    ADAPTERS,
    RECIPES,
    OPTIMIZERS,
    LR_SCHEDULES,
    LOSSES,
    HOOKS,
    EDITS,
    ALLOCATORS,
)
MODULES = ("compression.ere",)
"""What is no plugin: functions of a whole model, whose module has the ``CATALOGUE_ID``."""


@dataclass(frozen=True)
class Row:
    """A published method of the catalogue. ``scope`` is core, stretch or theory."""

    id: str
    name: str
    title: str
    scope: str
    axis: str


@dataclass(frozen=True)
class Done:
    """What implements a row: its kind and name, and its file from the project's root."""

    kind: str
    name: str
    file: str


def catalogue() -> list[Row]:
    """All rows, in their order."""
    text = resources.files("study").joinpath("catalogue.csv").read_text(encoding="utf-8")
    return [Row(**row) for row in csv.DictReader(text.splitlines())]


def done() -> dict[str, list[Done]]:
    """What implements each row, by its id."""
    found: dict[str, list[Done]] = {}
    for id_, made in _claims():
        found.setdefault(id_, []).append(made)
    return found


def _claims() -> Iterator[tuple[str, Done]]:
    for registry in REGISTRIES:
        for name in registry:
            cls = registry[name]
            if id_ := cls.__dict__.get("catalogue_id"):  # one that is inherited is another's
                yield id_, Done(registry.kind, name, _file(cls.__module__))
    for module in MODULES:
        id_ = importlib.import_module(module).CATALOGUE_ID
        yield id_, Done("function", module.rpartition(".")[2], _file(module))


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def as_markdown() -> str:
    """The page: a table for each axis, the core rows of it that are here and those that are not."""
    rows, made = catalogue(), done()
    core = [row for row in rows if row.scope == "core"]
    here = [row for row in core if row.id in made]
    lines = [
        "# Published methods",
        "",
        "Made by `python -m study.coverage`; edit no line here. Plugins without a row in the "
        "catalogue are in `python -m study.run --list KIND`.",
        "",
        f"{len(here)} of {len(core)} core rows are here.",
    ]
    for axis in dict.fromkeys(row.axis for row in core):
        lines += _section(axis, [row for row in core if row.axis == axis], made)
    beyond = [row for row in rows if row.scope != "core" and row.id in made]
    if beyond:
        lines += _section("beyond the core", beyond, made)
    return "\n".join(lines) + "\n"


def _section(title: str, rows: Sequence[Row], made: Mapping[str, Sequence[Done]]) -> list[str]:
    here = [row for row in rows if row.id in made]
    away = [f"{row.name} ({row.id})" for row in rows if row.id not in made]
    lines = ["", f"## {title}: {len(here)} of {len(rows)}", ""]
    if here:
        lines += ["| row | method | as | file |", "|---|---|---|---|"]
        lines += [_line(row, one) for row in here for one in made[row.id]]
    if away:
        lines += ["", f"Not here: {', '.join(away)}."]
    return lines


def _line(row: Row, one: Done) -> str:
    named = row.title.lower().startswith(row.name.lower())
    what = (row.title if named else f"{row.name}: {row.title}").replace("|", "\\|")
    return f"| {row.id} | {what} | {one.kind} `{one.name}` | [{one.file}](../{one.file}) |"


@click.command()
def main() -> None:
    """Print which published methods are here, as Markdown."""
    click.echo(as_markdown(), nl=False)


if __name__ == "__main__":
    main()

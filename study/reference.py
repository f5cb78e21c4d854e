"""What can be chosen: ``python -m study.reference KIND`` prints docs/reference/KIND.md.

Nothing in the tables is written by hand: a plugin's docstring says what it is and where it comes
from, its knobs which values they take.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

import click

from compression.registry import (
    Domain,
    FloatAbove,
    FloatRange,
    IntRange,
    Knob,
    Plugin,
    Registry,
    Scalar,
    Text,
    Values,
)
from study.coverage import catalogue
from study.kinds import KINDS, registry

_SOURCE = re.compile(r"^Source: (.*?)(?:\n\n|\Z)", re.DOTALL | re.MULTILINE)


def as_markdown(kind: str) -> str:
    """The page of a kind: a table of its plugins, and one of their options."""
    plugins = registry(kind)
    options = [line for name in plugins for line in _options(plugins[name])]
    lines = [
        f"# {kind.replace('_', ' ').capitalize()}",
        "",
        f"Made by `python -m study.reference {kind}`; edit no line here.",
        "",
        f"| {plugins.kind.replace('_', ' ')} | what it is | source |",
        "|---|---|---|",
        *(_line(plugins, name) for name in plugins),
    ]
    if options:
        lines += [
            "",
            "## Options",
            "",
            "What a study tries where its config names the plugin alone stands under *searched*; "
            "an option without that keeps its default until the config says otherwise.",
            "",
            "| option | what it is | values | default | searched |",
            "|---|---|---|---|---|",
            *options,
        ]
    return "\n".join(lines) + "\n"


def _line(plugins: Registry[Any], name: str) -> str:
    cls = plugins[name]
    file = f"{cls.__module__.replace('.', '/')}.py"
    what = _markdown(plugins.help(name))
    return f"| [`{name}`](../../{file}) | {what} | {_markdown(_source(cls))} |"


def _source(cls: type[Plugin]) -> str:
    """As the docstring names it, else the title of the catalogue's row, else nothing."""
    if found := _SOURCE.search(inspect.cleandoc(cls.__doc__ or "")):
        return " ".join(found[1].split()).rstrip(".")
    id_ = cls.__dict__.get("catalogue_id")
    return next((f"{row.title}, catalogue {id_}" for row in catalogue() if row.id == id_), "")


def _options(cls: type[Plugin]) -> Iterator[str]:
    """A line for each option; an optimizer's learning rate is one that has no default."""
    rate = getattr(cls, "lr", None)
    if "lr" not in cls.knobs() and isinstance(rate, FloatRange):
        yield _row(f"{cls.name}.lr", "learning rate", "any above 0", "", _domain(rate))
    for field in fields(cls):
        meta: Knob = field.metadata["knob"]
        if not meta.found:
            searched = _domain(meta.search) if meta.search else ""
            yield _row(
                f"{cls.name}.{field.name}",
                _markdown(_what(meta)),
                _domain(meta.valid),
                _value(cast(Scalar, field.default)),  # every option has one
                searched,
            )


def _row(option: str, *cells: str) -> str:
    return f"| `{option}` | {' | '.join(cells)} |"


def _what(meta: Knob) -> str:
    """Its help, and under which values of others it is read."""
    needs = [f"{name} is {' or '.join(map(str, values))}" for name, values in meta.when.items()]
    return "; ".join(
        [*filter(None, [meta.help]), *([f"if {' and '.join(needs)}"] if needs else [])]
    )


def _domain(domain: Domain | Text) -> str:
    """The values in words."""
    if isinstance(domain, Text):
        return _markdown(domain.what)
    if isinstance(domain, Values):
        return ", ".join(map(_value, domain.values))
    return _span(domain)


def _span(span: IntRange | FloatRange) -> str:
    low, high = (f"{end:.6g}" for end in (span.low, span.high))
    if isinstance(span, IntRange):
        low, high = f"{span.low:,}", f"{span.high:,}"
    above = "above " if isinstance(span, FloatAbove) else ""
    return f"{above}{low} to {high}{', in the logarithm' if span.log else ''}"


def _value(value: Scalar) -> str:
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


def _markdown(text: str) -> str:
    """For a cell: bars would end it, and what a docstring has in two backquotes needs one."""
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("|", "\\|")


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
def main(kind: str) -> None:
    """Print what there is of a KIND, as Markdown."""
    click.echo(as_markdown(kind), nl=False)


if __name__ == "__main__":
    main()

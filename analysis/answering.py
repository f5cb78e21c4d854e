"""``--json`` means one line of JSON on standard output, whatever happens; how commands fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from analysis.masking import sayable

__all__ = ["Answering", "fail"]

FLAG = "--json"


class Answering(click.Command):
    """A command whose ``--json`` holds for options that it does not know, and for bugs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click. What is wrong with the command line is said as JSON, too."""
        as_json = FLAG in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if as_json:
                fail(error.exit_code, [f"command line: {error.format_message()}"], as_json)
            raise

    def invoke(self, ctx: click.Context) -> object:
        """See click. A bug is said as JSON, too, and then shown whole."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if any(ctx.params.get(str(p.name)) for p in self.params if FLAG in p.opts):
                said = sayable(f"{type(error).__name__}: {error}")
                click.echo(json.dumps({"exit_code": 1, "errors": [said]}))
            raise


def fail(code: int, lines: Sequence[str], as_json: bool = False) -> NoReturn:
    """End the command with an exit code, a line an error; to programs as one line of JSON, too."""
    said = [sayable(line) for line in lines]
    for line in said:
        click.echo(line, err=True)
    if as_json:
        click.echo(json.dumps({"exit_code": code, "errors": said}))
    sys.exit(code)

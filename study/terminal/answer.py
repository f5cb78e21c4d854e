"""``--json``: one line of JSON on standard output and nothing else there, whatever happens."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import click

from analysis.masking import sayable
from study.errors import fail

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
            if ctx.params.get("as_json"):
                said = sayable(f"{type(error).__name__}: {error}")
                click.echo(json.dumps({"exit_code": 1, "errors": [said]}))
            raise


@contextmanager
def told_aside() -> Iterator[None]:
    """Within the block what anybody prints goes to standard error: libraries and workers, too."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

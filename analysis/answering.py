"""``--json`` means one line of JSON on standard output, whatever happens; how commands fail."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

import click

from analysis.masking import sayable

__all__ = ["Answering", "answer", "fail"]

FLAG = "--json"
_ANSWER = f"{__name__}.answer"


class Answering(click.Command):
    """A command with ``--json``, which gives its result to :func:`answer`.

    Then that is all that goes to standard output; what libraries and workers print there goes to
    standard error. What is wrong with the command line and bugs are answers, too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        asked = FLAG in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if asked:
                click.echo(error.format_message(), err=True)
                click.echo(json.dumps(_of_usage(error)))
                sys.exit(error.exit_code)
            raise

    def invoke(self, ctx: click.Context) -> object:
        """See click."""
        if not _answers(ctx):
            return super().invoke(ctx)
        try:
            with _told_aside():
                return super().invoke(ctx)
        except click.UsageError as error:
            ctx.meta[_ANSWER] = _of_usage(error)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            said = sayable(f"{type(error).__name__}: {error}")
            ctx.meta[_ANSWER] = {"exit_code": 1, "errors": [said]}
            raise
        finally:
            if _ANSWER in ctx.meta:
                click.echo(json.dumps(ctx.meta[_ANSWER]))


def _of_usage(error: click.UsageError) -> dict[str, object]:
    said = sayable(f"command line: {error.format_message()}")
    return {"exit_code": error.exit_code, "errors": [said]}


def _answers(context: click.Context | None) -> bool:
    """Whether the command was given the flag."""
    if context is None or not isinstance(context.command, Answering):
        return False
    of = [str(option.name) for option in context.command.params if FLAG in option.opts]
    return any(context.params.get(name) for name in of)


def answer(data: object, text: str | None = None) -> None:
    """What a command has to say: to programs plain data, of which the last is told, else text."""
    context = click.get_current_context()
    if _answers(context):
        context.meta[_ANSWER] = data
    elif text is not None:
        click.echo(text)


def fail(code: int, lines: Sequence[str]) -> NoReturn:
    """End a command with an exit code, a line an error; to programs as one line of JSON, too."""
    said = [sayable(line) for line in lines]
    for line in said:
        click.echo(line, err=True)
    if _answers(click.get_current_context(silent=True)):
        answer({"exit_code": code, "errors": said})
    sys.exit(code)


@contextmanager
def _told_aside() -> Iterator[None]:
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

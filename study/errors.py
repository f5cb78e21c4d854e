"""How commands say what went wrong."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click


class StudyError(Exception):
    """A study cannot go on; the message is a sentence for its user, exit code 1."""


def fail(code: int, lines: Sequence[str]) -> NoReturn:
    """End the command with an exit code, a line an error."""
    for line in lines:
        click.echo(line, err=True)
    sys.exit(code)

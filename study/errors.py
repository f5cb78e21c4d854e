"""How commands say what went wrong."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from analysis.masking import sayable
from trainables.shelf import ShelfError


class StudyError(Exception):
    """A study cannot go on; the message is a sentence for its user, exit code 1."""


class StorageError(StudyError, ShelfError):
    """A study's file cannot be read or written; the message names it and the cause.

    ``passing`` says whether trying again may help: not where another process has the study.
    """

    passing = True


def fail(code: int, lines: Sequence[str]) -> NoReturn:
    """End the command with an exit code, a line an error."""
    for line in lines:
        click.echo(sayable(line), err=True)
    sys.exit(code)

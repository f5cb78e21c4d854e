"""How commands say what went wrong."""

import json
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


def fail(code: int, lines: Sequence[str], as_json: bool = False) -> NoReturn:
    """End the command with an exit code, a line an error; to programs as one line of JSON, too."""
    said = [sayable(line) for line in lines]
    for line in said:
        click.echo(line, err=True)
    if as_json:
        click.echo(json.dumps({"exit_code": code, "errors": said}))
    sys.exit(code)

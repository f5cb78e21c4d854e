"""What ends a study, or one command of it, with a sentence for its user."""

from trainables.shelf import ShelfError


class StudyError(Exception):
    """A study cannot go on; the message is a sentence for its user, exit code 1."""


class StorageError(StudyError, ShelfError):
    """A study's file cannot be read or written; the message names it and the cause.

    ``passing`` says whether trying again may help: not where another process has the study.
    """

    passing = True

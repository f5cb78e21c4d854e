"""What is asked of a cluster: its file, a study, and how both answer in the words of a study."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from analysis.masking import sayable
from clusters.errors import ClusterError, InvalidCluster
from clusters.file import ClusterFile, parse
from clusters.others import foreign
from compression.registry import InvalidSetting
from study.config import StudyConfig
from study.errors import StudyError
from study.fields import yaml_lines


@dataclass(frozen=True)
class Order:
    """A study as the command line asks for it."""

    config: StudyConfig
    path: Path
    name: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False
    warm_start: str | None = None


def read(path: Path) -> ClusterFile:
    """A cluster file.

    Raises:
        InvalidSetting: what is wrong with it, each error with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting([f"{path}: {getattr(error, 'strerror', None) or error}"]) from None
    if elsewhere := foreign(text, str(path)):
        raise InvalidSetting([elsewhere])
    with in_our_words():
        return parse(yaml_lines.load(text, str(path)))


def say(text: str) -> None:
    """A line for the user, on standard error.

    Whoever closed the terminal reads nothing; what is being ended is to be ended all the same.
    """
    with suppress(OSError):
        print(sayable(text), file=sys.stderr, flush=True)


@contextmanager
def in_our_words() -> Iterator[None]:
    """Raises the errors of ``clusters`` as those of a study."""
    try:
        yield
    except InvalidCluster as error:
        raise InvalidSetting(error.errors) from error
    except ClusterError as error:
        raise StudyError(str(error)) from error

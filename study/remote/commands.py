"""What ``study.run`` does with ``--cluster``. Imports what is heavy only on use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.answering import answer
from compression.registry import InvalidSetting

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.remote.client import Remote
    from study.remote.order import Order
    from study.remote.results import Ended

VERBS = ("attach", "status", "stop", "down", "mlflow")


@dataclass(frozen=True)
class Asked:
    """The part of the command line that is about a cluster."""

    cluster: Path | None
    flags: Set[str]
    name: str | None
    resume: bool
    address: str | None
    warm_start: str | None
    dry_run: bool
    as_json: bool

    @property
    def verbs(self) -> list[str]:
        """Of ``--attach``, ``--status``, ... those that were given."""
        return [verb for verb in VERBS if verb in self.flags]

    def check(self) -> None:
        """Raises InvalidSetting: options that do not go together, all of them."""
        if errors := list(self._errors()):
            raise InvalidSetting([f"command line: {error}" for error in errors])

    def _errors(self) -> Iterator[str]:
        if self.cluster and self.address:
            yield "--cluster and --address: give one of them"
        if len(self.verbs) > 1:
            yield f"--{self.verbs[0]} and --{self.verbs[1]}: give one of them"
        if "force" in self.flags and "down" not in self.flags:
            yield "--force goes with --down"
        if self.verbs and self.cluster is None:
            yield f"--{self.verbs[0]} needs --cluster FILE"
        if self.cluster and self.resume and not self.name:
            yield "--resume on a cluster needs the study's --name"


Read = Callable[[], tuple["StudyConfig", Path, dict[str, str]]]


def serve(asked: Asked, read: Read) -> int:
    """Do what is asked of a cluster; the exit code. ``read`` gives a study to be run there."""
    from study.remote.client import DETACHED, Remote

    asked.check()
    if asked.cluster is None:
        raise InvalidSetting(["command line: --cluster FILE is missing"])
    remote = Remote(asked.cluster)
    if asked.verbs:
        return _manage(remote, asked)
    order = _order(asked, *read())
    if not asked.dry_run:
        # A terminal that is closed is as good as Ctrl-C: what was begun is ended, or left running.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            return _ended(lambda: remote.run(order), asked.as_json)
        except KeyboardInterrupt:
            flags = f"--cluster {asked.cluster}"
            what = f"`{flags} --status` says whether it runs, `{flags} --down` ends it"
            return _said(DETACHED, f"interrupted; {what}", asked.as_json)
    lines, wrong = remote.plan(order)
    answer({"plan": lines}, "\n".join(lines))
    return 2 if wrong else 0


def _said(code: int, why: str, as_json: bool) -> int:
    """An exit code, and why, where nobody may be there any more to read it."""
    from study.remote.order import say

    say(why)
    if as_json:
        answer({"exit_code": code, "errors": [why]})
    return code


def _ended(follow: Callable[[], Ended], as_json: bool) -> int:
    """Follow a study to its end; its exit code."""
    ended = follow()
    if as_json:
        answer(ended.answer())
    return ended.code


def _order(asked: Asked, config: StudyConfig, path: Path, given: dict[str, str]) -> Order:
    from study.checks import new_name
    from study.remote.order import Order

    name = asked.name or new_name(config.name)
    return Order(config, path, name, given, asked.resume, asked.warm_start)


def _manage(remote: Remote, asked: Asked) -> int:
    """Everything about a cluster but to run a study on it."""

    def shown(said: list[str]) -> int:
        answer({"said": said}, "\n".join(said))
        return 0

    actions: dict[str, Callable[[], int]] = {
        "attach": lambda: _ended(lambda: remote.attach(asked.name), asked.as_json),
        "status": lambda: shown(remote.status()),
        "stop": lambda: shown([remote.stop(asked.name)]),
        "down": lambda: shown([remote.down("force" in asked.flags)]),
        "mlflow": lambda: shown([remote.browse()]),
    }
    return actions[asked.verbs[0]]()

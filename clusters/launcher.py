"""Ray's cluster launcher, as a process of its own: up, down, and where the head is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clusters.errors import ClusterError, InvalidCluster, NotSetUp

_OURS = re.compile(r"paretune: (.*)")  # what the commands of clusters/derived.py say
_STEP = re.compile(r"\[\d+/\d+\] .*")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR = re.compile(r"^(ERROR|E: |error|fatal|bash: )|: error|No such|not found|denied|refused")
_ABORT = "Exiting due to cli_logger.abort()"  # how Ray ends after it said why
_NO_HEAD = re.compile(r"Head node of cluster .* not found")
_HALF = re.compile(r"Head node \(\S+\) is in state [\w-]+")
UP_SECONDS, DOWN_SECONDS, ASK_SECONDS = 1800.0, 600.0, 60.0


@dataclass(frozen=True)
class Launcher:
    """``ray up`` and its like for one file; state and logs are kept in ``folder``."""

    config: Path
    folder: Path
    refusal: Callable[[str], str | None] = lambda said: None

    def up(self, say: Callable[[str], None], seconds: float = UP_SECONDS) -> None:
        """Start the head, which starts the workers.

        Raises:
            InvalidCluster: a node's Python or packages are not as they must be.
            ClusterError: anything else, with the last that Ray said.
        """
        log = self.folder / "up.log"
        words = ("up", str(self.config), "-y", "--no-config-cache")
        code, lines = self._stream(words, log, say, seconds)
        if code == 0:
            return
        if ours := [found[1] for line in lines if (found := _OURS.search(line))]:
            raise InvalidCluster([f"cluster: {ours[-1]} (all of it: {log})"])
        raise ClusterError(f"`ray up` failed: {self._cause(lines)} (all of it: {log})")

    def down(self, say: Callable[[str], None], seconds: float = DOWN_SECONDS) -> None:
        """End all its machines.

        Raises:
            ClusterError: it could not be ended, so that it may go on to cost.
        """
        log = self.folder / "down.log"
        code, lines = self._stream(("down", str(self.config), "-y"), log, say, seconds)
        if code:
            raise ClusterError(
                f"`ray down` failed: {self._cause(lines)}; look whether machines are left "
                f"(all of it: {log})"
            )

    def head_address(self) -> str | None:
        """The head's address; None if the provider knows of no head.

        Raises:
            NotSetUp: there is one, half set up.
            ClusterError: the provider cannot be asked.
        """
        words = self._words("get-head-ip", str(self.config))
        try:
            done = subprocess.run(
                words, env=self._environment(), capture_output=True, text=True, timeout=ASK_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"the provider did not say within {ASK_SECONDS:.0f} s whether there is a head"
            ) from None
        found = done.stdout.strip().splitlines()
        if done.returncode == 0 and found:
            return found[-1].strip()
        said = _ESCAPES.sub("", done.stdout + done.stderr)
        if half := _HALF.search(said):
            raise NotSetUp(
                f"{half[0]}: somebody is starting it, or was, and it did not come up; wait, or "
                "end it with --down --force"
            )
        if _NO_HEAD.search(said):
            return None
        why = self._cause(said.splitlines())
        raise ClusterError(f"the provider does not say whether there is a head: {why}")

    def _cause(self, lines: list[str]) -> str:
        """Of all that the launcher says, what tells why: a refusal, the last errors, the end."""
        said = [line.strip() for line in lines if line.strip() and _ABORT not in line]
        if refusal := self.refusal("\n".join(said)):
            return refusal
        errors = [line for line in said[-40:] if _ERROR.search(line)]
        return " / ".join((errors or said)[-3:]) or "no word"

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ray.scripts.scripts", *words]

    def _environment(self) -> dict[str, str]:
        # The launcher keeps which hosts are taken in Ray's temporary folder, for all to read; in
        # the system's it looks for a configuration that it trusts, by a name that others can guess.
        private = dict.fromkeys(("RAY_TMPDIR", "TMPDIR"), str(self.folder))
        ours = {**private, "RAY_USAGE_STATS_ENABLED": "0", "NO_COLOR": "1"}
        elsewhere = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
        kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
        return {**kept, **ours, "PYTHONUNBUFFERED": "1"}

    def _stream(
        self, words: tuple[str, ...], log: Path, say: Callable[[str], None], seconds: float
    ) -> tuple[int, list[str]]:
        process = subprocess.Popen(
            self._words(*words),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        lines = list[str]()
        try:
            with log.open("w") as copy:
                for line in _lines(process.stdout):
                    copy.write(line + "\n")
                    lines.append(line)
                    if step := _STEP.search(line):
                        say(f"  {step[0].strip()}")
            return process.wait(), lines
        finally:
            timer.cancel()
            if process.poll() is None:  # an interrupt on the way
                process.terminate()
                process.wait()


def _lines(stream: IO[str] | None) -> Iterator[str]:
    for line in stream or ():
        yield _ESCAPES.sub("", line.rstrip("\n"))

"""On a machine that costs: ends it once Ray has not run there for so long.

Runs alone, from a file that was copied there: standard library only. ``python3 guard.py --minutes N
--command SHELL`` puts itself into the background and into the user's crontab, so that it is there
after a reboot as well; it is alone on its machine. It starts before anything is installed: whatever
becomes of the one who launches, of the head, or of its keeper, no machine is left running for good.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path.home() / ".paretune"
LOCK, LOG = FOLDER / "guard.lock", FOLDER / "guard.log"
EVERY = 30.0  # seconds
PROC = Path("/proc")


def ray_runs() -> bool:
    """Whether a Ray of this user does.

    A process that ended, and for whose end nobody asked, still has its name: it is none.
    """
    words = ["pgrep", "-u", str(os.getuid()), "-x", "raylet"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return any(map(lives, found))


def lives(pid: str) -> bool:
    """Whether a process is there and has not ended; without /proc it is taken to live."""
    if not PROC.joinpath("self").exists():
        return True
    try:
        about = (PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return False
    return not about.rpartition(")")[2].strip().startswith("Z")


def watch(seconds: float, runs: Callable[[], bool] = ray_runs) -> None:
    """Return once Ray has not run for so long."""
    since = time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(min(EVERY, seconds))
        if runs():
            since = time.monotonic()


def remember(words: list[str]) -> None:
    """Have it started at each boot, where there is cron."""
    line = f"@reboot {shlex.join(words)}"
    try:
        had = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False).stdout
        kept = [each for each in had.splitlines() if "guard.py" not in each]
        text = "\n".join([*kept, line, ""])
        subprocess.run(["crontab", "-"], input=text, text=True, check=False)
    except OSError:
        print("no cron here: a machine that boots again is not watched", file=sys.stderr)


def main() -> None:
    """Watch in the background."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--here", action="store_true", help="watch in this process")
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    words = [sys.executable, str(Path(__file__).resolve()), "--minutes", f"{given.minutes:g}"]
    words += ["--command", given.command]
    if not given.here:
        remember(words)
        with LOG.open("ab") as log:
            subprocess.Popen(
                [*words, "--here"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return
    lock = LOCK.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # one is enough
    watch(60 * given.minutes)
    print(f"no Ray for {given.minutes:g} minutes: {given.command}", flush=True)
    subprocess.run(given.command, shell=True, check=False)


if __name__ == "__main__":
    main()

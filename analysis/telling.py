"""What takes long is said while it lasts, in lines that a terminal and a log can show."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from analysis.front_text import WIDTH

FIRST_SECONDS = 2.0  # what is over sooner is not worth a line
AGAIN_SECONDS = 10.0  # until a second line; each further one takes twice as long


def wrapped(text: str) -> str:
    """Text in lines of at most 80 characters; what has no space in it, a path, stays whole."""
    lines = [
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        for line in text.split("\n")
    ]
    return "\n".join(lines)


@contextmanager
def told(
    say: Callable[[str], None],
    what: str,
    first: float = FIRST_SECONDS,
    again: float = AGAIN_SECONDS,
) -> Iterator[None]:
    """Within the block: ``what`` is said as soon as it lasts, and then that it still does."""
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        if over.wait(first):
            return
        say(what)
        wait = again
        while not over.wait(wait):
            say(f"{what}: {time.monotonic() - began:.0f} s so far")
            wait *= 2

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()

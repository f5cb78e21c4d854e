"""Calls that know no time limit of their own, such as looking a host's name up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns, or raises.

    Raises:
        TimeoutError: it took longer; its thread is left to itself.
    """
    results: list[T] = []
    problems: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # handed on to the caller below
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if problems:
        raise problems[0]
    return results[0]

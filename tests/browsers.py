"""A headless Chromium without a network, for the tests that look at a page."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = "html[data-ready=yes]"


def missing() -> str:
    """Why there is no browser; '' if there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright: pip install -e '.[test]'"
    return "" if _chromium() else "no chromium: apt-get install chromium"


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium; without its sandbox, which root cannot have."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(
    started: Any,
    page: Path,
    width: int = 1280,
    scheme: str = "light",
    before: Callable[[Any], Any] = lambda tab: None,
) -> Iterator[Any]:
    """A page from disk with the network off, once its front is drawn; ``before`` has the tab first.

    Raises:
        AssertionError: the console has an error, or the page asked for anything but itself.
    """
    size = {"width": width, "height": 900}
    context = started.new_context(viewport=size, offline=True, color_scheme=scheme)
    said: list[str] = []
    tab = context.new_page()
    # Drivers that compute in place of a graphics card warn that this takes time.
    tab.on("console", lambda m: m.type == "error" and said.append(m.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: _note(request.url, page, said))
    try:
        before(tab)
        tab.goto(page.as_uri())
        tab.wait_for_selector(READY, timeout=30_000)
        yield tab
        assert not said, said
    finally:
        context.close()


def until(holds: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until something holds. The page forbids eval, by which the driver's own wait works.

    Raises:
        TimeoutError: it never did.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.05)


def _note(url: str, page: Path, said: list[str]) -> None:
    if url != page.as_uri() and not url.startswith(("data:", "blob:")):
        said.append(f"asked for {url}")

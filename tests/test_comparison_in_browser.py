"""The page of a comparison in headless Chromium, from disk with the network off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import browsers
import pytest
from charted_study import charted
from pyarrow import fs

from analysis.studies.files import write_comparison

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(browsers.missing()), reason=browsers.missing() or "there is one"),
]
HOSTILE = "<img src=x onerror=alert(1)></script>\"'`&amp;😀" + "n" * 300
PLOTS = "document.querySelectorAll('#charts .js-plotly-plot')"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    studies = [replace(charted(60, seed), name=f"{seed}{HOSTILE}") for seed in (0, 1)]
    paths = write_comparison(studies, fs.LocalFileSystem(), str(folder), formats=("html",))
    return Path(paths["html"])


@pytest.mark.parametrize("width", [400, 1280])
def test_it_opens_draws_and_has_no_error(page, width):
    with browsers.browser() as started, browsers.opened(started, page, width) as tab:
        browsers.until(lambda: tab.evaluate(f"{PLOTS}.length") == 3)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        names = tab.locator("td").all_inner_texts()
        assert sum(f"0{HOSTILE}" in name for name in names) >= 1
        chip = tab.locator("#charts button").first
        lines = f"{PLOTS}[0].data.length"
        before = tab.evaluate(lines)
        chip.click()
        browsers.until(lambda: tab.evaluate(lines) < before)

"""The API's pages of HTML, as the README makes them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, Page

PACKAGES = ("compression", "trainables", "analysis", "study", "clusters")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    importlib.util.find_spec("pdoc") is None, reason="no pdoc: pip install -e '.[docs]'"
)
def test_they_are_made_without_a_warning(tmp_path: Path) -> None:
    assert "pip install -e '.[docs]' && python docs/api.py" in Page("README.md").text
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "api.py"), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert made.returncode == 0, made.stderr
    assert f"{os.sep}pdoc{os.sep}" not in made.stderr, made.stderr
    for package in PACKAGES:
        assert (tmp_path / f"{package}.html").is_file()
    page = (tmp_path / "compression" / "methods" / "quantize" / "hqq.html").read_text()
    assert "half-quadratic splitting" in page

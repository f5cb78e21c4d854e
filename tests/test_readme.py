"""What the README and its pages show is what the software takes; test_docs runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import Page

import study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ("searching", "each-layer", "keeping", "choices")


def _parts() -> list[str]:
    """Parts of configs on the pages that explain them."""
    pages = [Page(f"docs/{name}.md") for name in PAGES]
    return [block.text for page in pages for block in page.blocks if block.language == "yaml"]


def test_parts_of_configs_say_what_the_pages_say():
    read = [study.parse_config(f"task: digits\n{part}") for part in _parts()]
    (sized,) = [c for c in read if c.space.allocate]
    assert [allocator.name for allocator in sized.space.allocate.by] == ["measured", "mlorq"]
    read.remove(sized)
    (adapters,) = [c for c in read if len(c.space.loss) > 1]
    assert [option.name for option in adapters.space.loss][-1] == "label_smoothing+distil"
    (config,) = [c for c in read if c.calibration.samples == 256 and len(c.space.method) == 3]
    (searched,) = [c for c in read if c.confirm]
    assert searched.searcher.name == "forest"
    (bound,) = [c for c in read if c.constraints]
    assert len(bound.constraints) == 6
    (budgets,) = [c for c in read if c.patience]
    assert budgets.money_budget == 20
    (layerwise,) = [c for c in read if c.space.layerwise]
    assert len(layerwise.search_space().groups) == 3
    assert [option.name for option in config.space.method] == ["gptq", "svd+rtn", "n_m+rtn"]
    assert config.calibration.samples == 256


@pytest.mark.parametrize("path", re.findall(r"\]\((docs/[^)]+\.png)\)", README))
def test_pictures_stand_where_it_says(path):
    assert (ROOT / path).stat().st_size > 10_000


def test_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[test]' && pytest" in README
    assert "-e '.[test]' && pytest" in ci

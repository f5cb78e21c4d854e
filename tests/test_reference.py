"""The tables of what can be chosen say what the registries say."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from study.kinds import KINDS, registry
from study.reference import as_markdown, main

PAGES = Path(__file__).parents[1] / "docs" / "reference"


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_page_in_the_docs_is_the_one_that_is_generated(kind):
    page = (PAGES / f"{kind}.md").read_text(encoding="utf-8")
    command = f"python -m study.reference {kind}"
    assert page == as_markdown(kind), f"run: {command} > docs/reference/{kind}.md"


def test_every_page_is_of_a_kind():
    assert {path.stem for path in PAGES.iterdir()} == set(KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_plugin_and_every_option_has_a_line_of_as_many_cells(kind):
    page = as_markdown(kind).splitlines()
    plugins = registry(kind)
    for name in plugins:
        (line,) = [text for text in page if text.startswith(f"| [`{name}`](")]
        assert _bars(line) == 4
        for option, knob in plugins[name].knobs().items():
            lines = [text for text in page if text.startswith(f"| `{name}.{option}` |")]
            assert [_bars(text) for text in lines] == ([] if knob.found else [6])


def _bars(line: str) -> int:
    """Those that end a cell."""
    return line.count("|") - line.count("\\|")


def test_the_files_that_it_names_are_there():
    for kind in KINDS:
        for name, cls in ((name, registry(kind)[name]) for name in registry(kind)):
            path = f"../../{cls.__module__.replace('.', '/')}.py"
            assert (PAGES / path).is_file()
            assert f"[`{name}`]({path})" in as_markdown(kind)


def test_a_kind_that_is_none_is_refused():
    found = CliRunner().invoke(main, ["method"])
    assert found.exit_code == 2
    assert "methods" in found.output

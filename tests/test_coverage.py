"""The table of published methods says what the code says."""

from pathlib import Path

from click.testing import CliRunner

from study.coverage import as_markdown, catalogue, done, main

ROOT = Path(__file__).parents[1]


def test_the_page_in_the_docs_is_the_one_that_is_generated():
    page = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: python -m study.coverage > docs/coverage.md"


def test_every_claim_is_of_a_row_and_every_file_is_there():
    rows = {row.id for row in catalogue()}
    for id_, made in done().items():
        assert id_ in rows
        for one in made:
            text = (ROOT / one.file).read_text(encoding="utf-8")
            assert f'"{id_}"' in text
            assert one.kind == "function" or f'register("{one.name}")' in text


def test_each_row_is_listed_once_here_or_not_here():
    page = as_markdown()
    for row in catalogue():
        if row.scope == "core":
            listed = page.count(f"| {row.id} |")
            assert (listed > 0) != (f"({row.id})" in page)


def test_the_command_prints_the_page():
    found = CliRunner().invoke(main)
    assert found.exit_code == 0
    assert found.output == as_markdown()

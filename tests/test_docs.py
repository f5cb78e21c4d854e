"""What the pages of the docs say is what the software does; see ``doc_pages`` for their notes."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from doc_pages import ROOT, Block, Page, pages, shows

import study

PAGES = pages()
OURS = ("analysis", "clusters", "compression", "docs", "study", "tests", "trainables")
NOT_RUN = {
    "needs a cluster": "hosts, a cloud's account or Kubernetes; its options are checked",
    "needs AWS": "an account of Amazon's cloud",
    "needs another task's packages": "pip install of the extra offline, which CI does for its own",
    "installs packages": "CI installs them as it says",
    "needs your data": "files that only the reader has",
    "serves until Ctrl-C": "it does not end by itself",
    "a sketch": "names of the reader's own",
    "takes minutes": "its options are checked",
}
"""Why a block is only read."""

MODULES = (
    *(f"study.{name}" for name in ("run", "best", "export", "replay", "sync", "speed", "doctor")),
    *("study.coverage", "study.reference", "compression.show", "compression.cut"),
)
COMMANDS = {f"-m {name}": name for name in MODULES} | {"analysis/pareto.py": "analysis.pareto"}
OTHERS = {"kubectl", "sbatch", "mlflow", "pip", "aws", "ray", "optuna-dashboard", "pytest", "pdoc"}
FOREIGN = {"--no-deps"}
READERS = {"my.yaml", "c.yaml", "mine.py", "my_task.py"}
"""Files of the reader's own that no page shows whole."""

by_path = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)


def options(module: str) -> set[str]:
    """Those of a command of ours."""
    main = importlib.import_module(module).main
    assert isinstance(main, click.Command)
    return {
        "--help",
        *(name for param in main.params for name in (*param.opts, *param.secondary_opts)),
    }


def code(page: Page) -> Iterator[str]:
    """Every line of code that a shell could be given, whole."""
    for text in [*page.spans, *(block.text for block in page.blocks)]:
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|(?= )|(?<=\s)#.*", line):
                yield part.removeprefix("$ ").strip()


def called(line: str) -> tuple[str, set[str]] | None:
    """The command of a line of code, without its arguments, and the options that it is given."""
    found = re.match(r"(?:\w+=\S+ )*python (-m [\w.]+|\S+\.py)", line)
    named = set(re.findall(r"(?<=\s)(--[a-z][a-z-]*)", line))
    return (found[1], named) if found else None


@by_path
def test_every_link_leads_to_a_file_and_a_heading(page: Page) -> None:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page.path).parent / name if name else ROOT / page.path
        assert target.exists(), link
        if anchor:
            assert anchor in Page(str(target.resolve().relative_to(ROOT))).anchors, link


@by_path
def test_commands_are_given_options_that_they_have(page: Page) -> None:
    for line in code(page):
        if (asked := called(line)) is None:
            continue
        command, given = asked
        if command in COMMANDS:
            assert given <= options(COMMANDS[command]), line
        elif command.endswith(".py") and (ROOT / command).is_file():
            text = (ROOT / command).read_text(encoding="utf-8")
            assert all(_is_read(option, text) for option in given), line
        else:
            assert command in {f"-m {tool}" for tool in OTHERS} | _saved(), line


def _is_read(option: str, script: str) -> bool:
    name = option.removeprefix("--")
    return option in script or re.search(rf"\b{name.replace('-', '_')}\b", script) is not None


def _saved() -> set[str]:
    return {block.notes["file"] for page in PAGES for block in page.blocks if "file" in block.notes}


@by_path
def test_options_within_sentences_are_those_of_some_command(page: Page) -> None:
    known = FOREIGN.union(*map(options, COMMANDS.values()))
    scripts = "".join(path.read_text() for path in (ROOT / "tests/benchmarks").glob("*.py"))
    for span in page.spans:
        if span.startswith("--"):
            for option in re.findall(r"(?:^|(?<=\s))(--[a-z][a-z-]*)", span):
                assert option in known or _is_read(option, scripts), span


@by_path
def test_files_that_are_named_are_there(page: Page) -> None:
    known = READERS | _saved() | {path.name for path in (ROOT / "study/configs").iterdir()}
    ours = re.compile(rf"(?<![\w./-])((?:{'|'.join(OURS)})/[\w./-]+\.\w+)")
    for line in code(page):
        for name in ours.findall(line):
            assert (ROOT / name).exists(), line
        for name in re.findall(r"(?:^|--config )([\w-]+\.ya?ml)\b", line):
            assert name in known, line


@by_path
def test_every_block_is_run_saved_or_has_a_reason(page: Page) -> None:
    for block in page.blocks:
        where = f"{page.path}:{block.line}"
        assert set(block.notes) <= {"file", "not run", "exit"}, where
        assert block.notes.get("not run", "a sketch") in NOT_RUN, where
        if not {"file", "not run"} & set(block.notes):
            assert block.language in ("console", "bash", "python", "yaml", "text"), where


def parts() -> Iterator[tuple[str, str]]:
    """The blocks of YAML that are no files: parts of a study's config."""
    for page in PAGES:
        for block in page.blocks:
            if block.language == "yaml" and not {"file", "not run"} & set(block.notes):
                yield f"{page.path}:{block.line}", block.text


@pytest.mark.parametrize(("where", "text"), [pytest.param(*part, id=part[0]) for part in parts()])
def test_parts_of_configs_are_valid(where: str, text: str) -> None:
    named = yaml.safe_load(text)
    study.parse_config(text if "task" in named else f"task: digits\n{text}")


def test_what_a_page_shows_is_found_whatever_its_figures():
    assert shows("front: 3 points, 97.5% ...", "front:  12 points, 9% of dense")
    assert not shows("front: 3 points", "front: no points")
    assert not shows("front: 3 points", "the front: 3 points")


class Runs:
    """Pages that were run, each with the folder in which it left its files."""

    def __init__(self, below: Path) -> None:
        self.below = below
        self.folders: dict[str, Path] = {}
        self.failed: set[str] = set()

    def folder(self, page: Page) -> Path:
        """Run the page once, after the one that it goes on from; its folder."""
        assert page.path not in self.failed, f"{page.path} has failed"
        if page.path not in self.folders:
            self.failed.add(page.path)
            folder = self.folder(page.after) if page.after else self._checkout(page)
            for block in page.blocks:
                if "not run" not in block.notes:
                    self._do(block, folder, f"{page.path}:{block.line}")
            self.folders[page.path] = folder
            self.failed.remove(page.path)
        return self.folders[page.path]

    def _checkout(self, page: Page) -> Path:
        folder = self.below / Path(page.path).stem
        folder.mkdir()
        for name in OURS:
            (folder / name).symlink_to(ROOT / name)
        return folder

    def _do(self, block: Block, folder: Path, where: str) -> None:
        if name := block.notes.get("file"):
            (folder / name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            (folder / "block.py").write_text(block.text, encoding="utf-8")
            _check(block, "python block.py", [], folder, where)
        elif block.language in ("bash", "console"):
            for command, shown in block.commands():
                _check(block, command, shown, folder, where)


def _check(block: Block, command: str, shown: list[str], folder: Path, where: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=540,
    )
    told = f"{where}: {command}\n{ended.stdout}"
    assert str(ended.returncode) in block.notes.get("exit", "0").split(" or "), told
    printed = iter(ended.stdout.splitlines())
    for line in shown:
        assert any(shows(line, one) for one in printed), f"not shown: {line}\n{told}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("pages"))


RUN = [
    page
    for page in PAGES
    if any(
        b.language in ("bash", "console", "python") and "not run" not in b.notes
        for b in page.blocks
    )
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.path)
def test_the_page_runs_as_it_is_written(page: Page, runs: Runs) -> None:
    runs.folder(page)

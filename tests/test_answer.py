"""``--json``: standard output has one line of JSON and nothing else, whatever happens."""

import importlib
import json
import os
import sys
import types

import click
import pytest
from click.testing import CliRunner

from analysis.answering import answer
from analysis.pareto import main as pareto
from study.errors import StudyError
from study.result import StudyResult
from study.run import main


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run the command with a study that does what is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def run(*arguments, does=lambda: StudyResult("a", "here", (), ())):
        class Study:
            def __init__(self, *_):
                self.check, self.run = (lambda: None), does

        monkeypatch.setitem(sys.modules, "study.study", types.SimpleNamespace(Study=Study))
        return CliRunner().invoke(main, arguments)

    return run


def only_line(done):
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_what_others_print_goes_elsewhere(cli, capfd):
    def noisy():
        print("a library says hello")
        os.write(1, b"a worker says hello\n")
        return StudyResult("a", "here", (), (), remarks=("one",), headline="Good.")

    done = cli("--json", "--name", "a", does=noisy)
    found = only_line(done)
    assert (found["name"], found["headline"], found["remarks"]) == ("a", "Good.", ["one"])
    assert "a library says hello" in done.stderr
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "a worker says hello\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frobnicate",), "frobnicate"),
        (("--list", "nothing"), "nothing"),
        (("--set", "space.rank=x", "--trials", "no"), "trials"),
        (("--set", "novalue"), "KEY=VALUE"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("--stop",), "--cluster"),
    ],
)
def test_wrong_input_is_said_twice(cli, arguments, words):
    done = cli("--json", "--name", "a", *arguments)
    found = only_line(done)
    assert done.exit_code == found["exit_code"] == 2
    assert words in " ".join(found["errors"])
    plain = cli("--name", "a", *arguments)
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert words in plain.stderr


def test_a_study_that_fails(cli):
    def fails():
        print("so far so good")
        raise StudyError("the disk is full")

    done = cli("--json", "--name", "a", does=fails)
    assert only_line(done) == {"exit_code": 1, "errors": ["the disk is full"]}
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr


def test_a_bug_is_shown_whole_and_said_in_a_line(cli):
    def breaks():
        raise RuntimeError("not meant to be")

    done = cli("--json", "--name", "a", does=breaks)
    assert only_line(done) == {"exit_code": 1, "errors": ["RuntimeError: not meant to be"]}
    assert isinstance(done.exception, RuntimeError)
    assert done.exit_code == 1


def test_a_list_is_json_too(cli):
    found = only_line(cli("--list", "optimizers", "--json"))
    assert {"adam", "sgd"} <= set(found["optimizers"])
    assert all(found["optimizers"].values())


def with_json():
    """The commands that answer programs."""
    for name in ("run", "best", "export", "replay", "speed", "doctor"):
        yield importlib.import_module(f"study.{name}").main
    yield importlib.import_module("analysis.pareto").main


def needed(command, value):
    """The least that it must be given."""
    words = ["--json"]
    for one in (one for one in command.params if one.required):
        words += [value] if isinstance(one, click.Argument) else [one.opts[0], value]
    return words


@pytest.mark.parametrize("command", with_json(), ids=lambda one: one.callback.__module__)
def test_every_command_says_what_is_wrong_with_its_line_as_json(command):
    done = CliRunner().invoke(command, ["--frobnicate", "--json"])
    said = only_line(done)
    assert (done.exit_code, said["exit_code"]) == (2, 2)
    assert "--frobnicate" in said["errors"][0]
    assert "--frobnicate" in done.stderr


@pytest.mark.parametrize("command", with_json(), ids=lambda one: one.callback.__module__)
def test_of_every_command_a_bug_is_an_answer_too(command, monkeypatch):
    def fails(*args, **named):
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(command, "callback", fails)
    words = needed(command, "x")
    done = CliRunner().invoke(command, words)
    assert only_line(done)["errors"] == ["RuntimeError: what nobody thought of"]
    assert isinstance(done.exception, RuntimeError)


@pytest.mark.parametrize("command", with_json(), ids=lambda one: one.callback.__module__)
def test_every_command_says_what_is_wrong_with_its_input_as_json(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = needed(command, "nosuch")
    words += {"run": ["--config", "nosuch"], "export": ["nosuch", "--to", "onnx"]}.get(
        command.callback.__module__.removeprefix("study."), []
    )
    done = CliRunner().invoke(command, words)
    said = only_line(done)
    assert (done.exit_code, said["exit_code"]) == (2, 2)
    assert any("nosuch" in error or "no study" in error for error in said["errors"])


def test_options_that_do_not_go_together_are_no_bug():
    done = CliRunner().invoke(pareto, ["a", "b", "--compare", "--x", "macs", "--json"])
    said = only_line(done)
    assert (done.exit_code, said["exit_code"]) == (2, 2)
    assert said["errors"] == ["command line: --x: means nothing beside --compare"]


@pytest.mark.parametrize("command", with_json(), ids=lambda one: one.callback.__module__)
def test_what_libraries_print_in_any_command_goes_elsewhere(command, monkeypatch):
    def noisy(*args, **named):
        print("a library says hello")
        answer({"all": "well"}, "as text")
        sys.exit(3)

    monkeypatch.setattr(command, "callback", noisy)
    words = needed(command, "x")
    done = CliRunner().invoke(command, words)
    assert (done.exit_code, only_line(done)) == (3, {"all": "well"})
    assert "a library says hello" in done.stderr

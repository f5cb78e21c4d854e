"""The study command: exit codes and messages for a person who mistypes, and how fast it answers."""

import json
import os
import socket
import subprocess
import sys
import time
import types

import pytest
from click.testing import CliRunner

import study
from compression.registry import InvalidSetting
from study import checks, log
from study.events import Closed
from study.kinds import KINDS
from study.result import StudyResult
from study.run import DEFAULT, main
from study.store.storage import Storage
from trainables.optimizers import OPTIMIZERS

ROOT = DEFAULT.parents[2]


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run the command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def run(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return run


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )


def refused(result, code=2):
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()


def make_study(storage, name):
    with log.EventLog(Storage.open(storage).sub(name)) as events:
        events.append(Closed(0.0, "test", 0.0))


HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "pyarrow", "pydantic")


def test_help_answers_within_a_second_and_imports_nothing_heavy():
    code = (
        "import runpy, sys\nsys.argv = ['study.run', '--help']\n"
        "try: runpy.run_module('study.run', run_name='__main__')\n"
        f"finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    took = []
    for _ in range(3):
        began = time.perf_counter()
        done = python("-c", code)
        took.append(time.perf_counter() - began)
        assert done.returncode == 0
        assert done.stderr.strip() == "[]"
    assert "Exit codes: 0 done, 1 the study failed, 2 the input is wrong" in done.stdout
    assert min(took) < 1


@pytest.mark.parametrize("version", [(3, 14, 0), (3, 10, 9)])
def test_the_python_version_is_checked_first_and_the_reason_given(version):
    code = (
        f"import runpy, sys; sys.version_info = {version}\n"
        f"sys.version = '{version[0]}.{version[1]} x'\n"
        "sys.modules['click'] = None  # whatever else is imported comes later\n"
        "runpy.run_module('study.run', run_name='__main__')"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert f"this is 3.{version[1]}" in done.stderr
    assert "a package named `compression`" in done.stderr


def test_the_package_exposes_the_study_lazily():
    code = f"import study, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"
    assert study.load_config(DEFAULT).name == "digits"
    with pytest.raises(AttributeError, match="has no attribute 'Studdy'"):
        _ = study.Studdy


@pytest.mark.parametrize("kind", list(KINDS))
def test_list_prints_one_name_a_line_with_one_line_of_help(cli, kind):
    done = cli("--list", kind)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines
    for line in lines:
        name, text = line.split(maxsplit=1)
        assert name.isidentifier()
        assert len(text) > 5
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(names)


def test_list_knows_the_plugins_of_a_config(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(OPTIMIZERS, "_plugins", dict(OPTIMIZERS._plugins))
    (tmp_path / "listed.py").write_text(
        "from trainables.optimizers import OPTIMIZERS, Sgd\n"
        "@OPTIMIZERS.register('listed_here')\nclass Mine(Sgd):\n    '''Mine.'''\n"
    )
    (tmp_path / "s.yaml").write_text("task: digits\nplugins: [listed.py]")
    assert "listed_here" in cli("--list", "optimizers", "--config", "s.yaml").output
    # A subclass brings its own learning rates along and can be searched.
    done = cli("--config", "s.yaml", "--dry-run", "--set", "space.optimizer=listed_here")
    assert "listed_here.lr" in done.output


def test_all_errors_at_once_wherever_they_come_from(cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("task: digits\nspace:\n  method: int2\n  rank: 99\nx: 1")
    (tmp_path / "file").write_text("")
    with socket.socket() as closed:  # bound, not listening: nothing answers there
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        began = time.perf_counter()
        options = ["--config", "bad.yaml", "--trials", "-3", "--storage", tmp_path / "file" / "in"]
        lines = refused(cli(*options, "--set", "seed", "--set", "epochs=0", "--tracking-uri", uri))
    assert time.perf_counter() - began < 12
    assert len(lines) == 8
    for expected in (
        "command line: --set: expected KEY=VALUE, got 'seed'",
        "command line: trials: expected a number greater than 0, got -3",
        "command line: epochs: expected a number greater than 0, got 0",
        "command line: storage: cannot write",
        f"command line: tracking_uri: tracking '{uri}'",
        "bad.yaml:3: space.method: unknown method 'int2'; did you mean 'int1'?",
        "bad.yaml:4: space.rank: 99 is above 28",
        "bad.yaml:5: x: unknown key 'x'",
    ):
        assert sum(expected in line for line in lines) == 1, expected
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "no.yaml"], "no.yaml: No such file or directory"),
        (["--trials", "0"], "command line: trials: expected a number greater than 0"),
        (["--trials", "many"], "command line: trials: expected a valid integer, got 'many'"),
        (["--time-budget", "-5m"], "command line: time_budget: expected a time above 0"),
        (["--seed", "-1"], "command line: seed: expected a number greater than or equal to 0"),
        (["--set", "space.rank=[]"], "command line: space.rank: the list is empty"),
        (["--set", "spice.rank=1"], "unknown key 'spice'; did you mean 'space'?"),
        (["--set", "space.rank=["], "command line: space.rank:1: malformed YAML"),
        (["--set", "=3"], "'' is no key"),
        (
            ["--set", "space.method={svd: {rank: [40]}}"],
            "svd: at rank 40 the factors",
        ),
        (["--set", "searcher=grid", "--set", "space.optimizer=sgd"], "grid: sgd.lr is a range"),
        (["--storage", "nowhere://x"], "command line: storage: storage 'nowhere://x'"),
        (["--storage", ""], "command line: storage: expected text to have at least 1 char"),
        (["--storage", "/dev/null/x", "--dry-run"], "storage: cannot write"),
        (["--tracking-uri", "sqlite:////no/such/folder/m.db", "--dry-run"], "there is no folder"),
        (["--name", "../x", "--dry-run"], "must begin with a letter or digit"),
        (["--name", "gone", "--resume"], "no study 'gone' to resume"),
        (["--resume"], "resume: no study of 'digits' in results; give its --name"),
    ],
)
def test_one_line_says_what_is_wrong(cli, arguments, expected):
    (line,) = refused(cli(*arguments))
    assert expected in line


@pytest.mark.parametrize("arguments", [["--list", "method"], ["--trails", "3"], ["extra"]])
def test_misspelt_options(cli, arguments):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_a_name_that_exists_needs_resume(cli):
    make_study("results", "mine")
    before = sorted(os.listdir("results/mine"))
    (line,) = refused(cli("--name", "mine", "--dry-run"))
    assert "'mine' exists in" in line
    assert "add --resume" in line
    (name, other) = refused(cli("--name", "mine", "--trials", "0"))
    assert {"'mine' exists" in name, "'mine' exists" in other} == {True, False}
    (line,) = refused(cli("--name", "mind", "--resume"))
    assert "there: mine" in line
    assert sorted(os.listdir("results/mine")) == before


def test_dry_run_prints_the_plan_and_runs_nothing(cli, tmp_path):
    done = cli("--dry-run", "--trials", "7", "--time-budget", "2m", "--set", "space.rank=[3]")
    assert done.exit_code == 0, done.output
    assert "7 trials of up to 24 epochs, at most 120 s" in done.output
    assert "  rank: 3  when adapter is not none" in done.output
    assert "of them in the targets: at most" in done.output
    assert not (tmp_path / "results").exists()


def test_what_the_study_gets_and_gives(cli, monkeypatch):
    got = {}

    class Study:
        def __init__(self, config, name, resume, address, quiet, warm_start):
            options = {"resume": resume, "address": address, "quiet": quiet}
            got.update(options, config=config, name=name, warm_start=warm_start)

        def check(self):
            if got["name"] == "wrong":
                raise InvalidSetting(["one", "two"])

        def run(self):
            if got["name"] == "lost":
                raise checks.StorageError("cannot write there")
            return StudyResult("a", "here", (), (), exit_code=130, tracking_uri="http://x")

    monkeypatch.setitem(sys.modules, "study.study", types.SimpleNamespace(Study=Study))
    options = ("--address", "ray://x:1", "--storage", "7", "--warm-start", "b")
    done = cli("--name", "a", "--quiet", "--json", *options)
    assert done.exit_code == 130
    assert got.pop("config").storage == "7"
    wanted = {"resume": False, "address": "ray://x:1", "quiet": True, "warm_start": "b"}
    assert got == {"name": "a", **wanted}
    assert json.loads(done.stdout)["exit_code"] == 130
    assert refused(cli("--name", "wrong")) == ["one", "two"]
    assert refused(cli("--name", "lost"), code=1) == ["cannot write there"]

    assert cli().exit_code == 130
    assert checks.re.fullmatch(r"digits-\d{8}-\d{6}", got["name"])
    for name in ("digits-20260101-000000", "digits-20260102-000000", "digits-x", "zzz"):
        make_study("results", name)
    cli("--resume")
    assert got["name"] == "digits-20260102-000000"


def test_a_resume_with_another_space_shows_the_difference():
    stored = {"space": {"epochs": 12, "params": {"rank": [1, 2], "old": 1}}, "seed": 0}
    asked = {"space": {"epochs": 12, "params": {"rank": [1, 4], "new": 2}}, "seed": 1}
    assert checks.identity_errors(stored, json.loads(json.dumps(stored))) == []
    assert checks.identity_errors(stored, asked) == [
        "resume: space.params.rank: the study has [1, 2], now asked: [1, 4]",
        "resume: space.params.old: the study has 1, now asked: nothing",
        "resume: space.params.new: the study has nothing, now asked: 2",
        "resume: seed: the study has 0, now asked: 1",
    ]


def test_a_study_goes_on_where_mlflow_is_away(cli, tmp_path):
    make_study(tmp_path / "results", "begun")
    options = ["--name", "begun", "--dry-run", "--tracking-uri", "http://me:s3cret@127.0.0.1:9"]
    done = cli(*options, "--resume")
    assert done.exit_code == 0, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "command line: tracking_uri: tracking 'http://***@127.0.0.1:9': no answer"
    )
    assert line.endswith("the study goes on; `python -m study.sync begun` brings MLflow up to it")
    assert "no answer" not in "".join(refused(cli(*options, "--resume", "--set", "epochs=0")))
    options[1] = "new"
    assert "no answer" in "".join(refused(cli(*options)))
    wrong = ["--tracking-uri", "nowhere://x"]
    assert "expected sqlite:///PATH.db" in "".join(refused(cli("--dry-run", *wrong)))

"""The main job, end to end, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from studies import SMALL, essences, interrupt, run, state

import study
from compression import load
from study.events import BASELINES
from study.state import Phase
from trainables.record import Status
from trainables.tasks import Digits, observe

pytestmark = pytest.mark.timeout(300)

COLUMNS = """trial_id method init adapter rank optimizer epochs_done val_accuracy test_accuracy drop
ratio layer_ratio nominal_ratio ratio_vs_fp16 stored_bytes file_bytes macs verified artifact"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def finished(folder):
    done = run(folder, "--name", "whole")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def table(folder, finished) -> pd.DataFrame:
    return pd.read_csv(folder / "results/whole/report/front.csv")


@pytest.fixture(scope="module")
def runs(folder, finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    return client, client.search_runs([experiment.experiment_id], max_results=1000)


def test_it_ends_by_saying_where_everything_is(finished):
    named = ("report.html", "front.png", "summary.md", "results/whole", "mlflow ui")
    for text in ("ratio  bytes     val    test", *named):
        assert text in finished.stdout


def test_front_csv_has_the_promised_columns_and_only_verified_points(table):
    assert not set(COLUMNS.split()) - set(table.columns)
    assert len(table) >= 2
    assert table.verified.all()


def test_claimed_bytes_are_those_of_the_files(folder, table):
    for row in table.itertuples():
        path = folder / "results/whole" / row.artifact
        assert path.stat().st_size == row.file_bytes
        assert row.stored_bytes < row.file_bytes


def test_an_artifact_loads_into_the_architecture_alone_and_scores_as_said(folder, table):
    task = Digits()
    test = task.test(0)
    for row in table.itertuples():
        model = load(str(folder / "results/whole" / row.artifact), task.architecture())
        accuracy = task.score(observe(task, model, test), test.labels)["accuracy"]
        assert accuracy == pytest.approx(row.test_accuracy, abs=1e-12)


def test_baselines_ran_and_dense_has_ratio_exactly_1(folder, finished):
    found = state(folder, "whole")
    assert [t.role for t in found.ended if t.number < 0] == list(BASELINES)
    assert found.baseline("dense").record.outcome.size.ratio == 1.0
    assert all(t.trial_id in found.verifications for t in found.ended if t.number < 0)


def test_nothing_is_left_open(folder, finished):
    found = state(folder, "whole")
    assert not found.interrupted()
    assert found.closed[-1].reason == "exit 0"


def test_the_ledger_counts_one_read_of_test(folder, finished):
    reads = [json.loads(f.read_text()) for f in (folder / "results/test_reads").rglob("*.json")]
    assert [r["study"] for r in reads] == ["whole"]


def test_mlflow_has_a_parent_and_a_child_a_trial_all_closed(folder, runs):
    client, found = runs
    ended = state(folder, "whole").ended
    parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in found if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert {r.data.tags["paretune.trial"] for r in children} == {t.trial_id for t in ended}
    assert len(children) == len(ended)
    assert {r.info.status for r in found} == {"FINISHED"}


def test_mlflow_front_points_carry_their_model(folder, runs, table):
    client, found = runs
    marked = {
        r.data.tags["paretune.trial"]: r for r in found if r.data.tags.get("on_front") == "true"
    }
    assert set(marked) == set(table.trial_id)
    for trial_id, mlflow_run in marked.items():
        names = {a.path for a in client.list_artifacts(mlflow_run.info.run_id)}
        assert "record.json" in names
        models = {a.path for a in client.list_artifacts(mlflow_run.info.run_id, "model")}
        assert f"model/{trial_id}.safetensors" in models


def test_the_command_names_only_files_that_are_there(folder, finished):
    lines = (line.split(": ", 1) for line in finished.stdout.splitlines() if ": " in line)
    named = [where for kind, where in lines if kind in ("csv", "png", "md", "published")]
    assert len(named) == 3
    assert all((folder / name).is_file() for name in named)


def test_the_report_can_be_made_again_by_its_command(folder, finished, table):
    script = Path(study.__file__).parents[1] / "analysis" / "pareto.py"
    again = subprocess.run(
        [sys.executable, script, "results/whole", "--output", "again"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_csv(folder / "again/front.csv"), table)


def test_a_name_that_exists_is_refused(folder, finished):
    refused = run(folder, "--name", "whole")
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SMALL + "seed: 5\n", "seed"),
        (SMALL.replace("[2, 3, 4]", "[2, 3]"), "rtn.bits"),
        (SMALL.replace("task: digits", "task: {digits: {width: 20}}"), "width"),
    ],
)
def test_resuming_another_study_is_refused_with_the_difference(folder, finished, config, said):
    refused = run(folder, "--name", "whole", "--resume", config=config)
    assert refused.returncode == 2
    assert said in refused.stderr


@pytest.mark.slow
def test_a_finished_study_is_extended_without_running_anything_again(folder, finished):
    before = essences(state(folder, "whole"))
    more = run(folder, "--name", "whole", "--resume", "--trials", "10", "--quiet")
    assert more.returncode == 0, more.stderr
    after = state(folder, "whole")
    assert {n: e for n, e in essences(after).items() if n in before} == before
    assert len([t for t in after.ended if t.number >= 0]) == 10
    assert all(t.starts <= 1 for t in after.trials.values())


@pytest.mark.chaos
def test_ctrl_c_and_resume_give_the_undisturbed_study(folder, finished):
    assert interrupt(folder, "cut", signal.SIGINT, after=6) == 130
    cut = state(folder, "cut")
    assert cut.closed[-1].reason == "exit 130"
    resumed = run(folder, "--name", "cut", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "done" in resumed.stderr
    _assert_equal_up_to(8, state(folder, "cut"), state(folder, "whole"))


def _assert_equal_up_to(trials, mine, theirs):
    """Equal records up to the shorter study: the other fixture may have been extended."""
    mine, theirs = essences(mine), essences(theirs)
    ran = [n for n, (phase, _) in sorted(mine.items()) if n < 0 or phase != Phase.ANSWERED]
    assert len([n for n in ran if n >= 0]) == trials
    assert {n: mine[n] for n in ran} == {n: theirs[n] for n in ran}


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGTERM, 5),
        (signal.SIGKILL, 0),
        (signal.SIGKILL, 3),
        (signal.SIGKILL, 7),
        (signal.SIGKILL, 10),
    ],
)
def test_any_signal_at_any_moment_and_resume(folder, finished, number, after):
    name = f"{number.name.lower()}-{after}"
    code = interrupt(folder, name, number, after)
    assert code == (143 if number is signal.SIGTERM else -9)
    resumed = run(folder, "--name", name, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    mine = state(folder, name)
    _assert_equal_up_to(8, mine, state(folder, "whole"))
    assert not mine.interrupted()
    _assert_mlflow_agrees(folder, name, mine)


def _assert_mlflow_agrees(folder, name, mine):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    ids = [e.experiment_id for e in client.search_experiments()]
    where = f"tags.`paretune.study` = '{mine.study_id}'"
    found = client.search_runs(ids, where, max_results=1000)
    children = [r.data.tags["paretune.trial"] for r in found if "paretune.trial" in r.data.tags]
    assert sorted(children) == sorted(t.trial_id for t in mine.ended)
    assert {r.info.status for r in found} == {"FINISHED"}


@pytest.mark.slow
def test_it_runs_with_the_network_blocked(tmp_path):
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let a test make a network namespace")
    # Loopback comes up by hand in a new namespace: SIOCSIFFLAGS with IFF_UP.
    request = "struct.pack('16sh', b'lo', 1)"
    up = f"import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, {request})"
    (tmp_path / "small.yaml").write_text(SMALL)
    study_command = f"{sys.executable} -m study.run --config small.yaml --trials 4 --quiet"
    done = subprocess.run(
        [*alone, "sh", "-c", f'{sys.executable} -c "{up}" && exec {study_command}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert "front.png" in done.stdout


@pytest.mark.slow
def test_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = study.parse_config(SMALL.replace("trials: 8", "trials: 3"))
    result = study.Study(config, quiet=True).run()
    assert result.exit_code == 0
    assert len(result.records) == 3 + len(BASELINES)
    assert {r.trial_id for r in result.front} <= {r.trial_id for r in result.records}
    assert len(result.frame) == len(result.records)
    assert result.front_frame.test_accuracy.notna().all()


PLUGIN_TASK = '''
import torch
from torch import nn

from compression.registry import IntRange, knob
from trainables.record import Fingerprint
from trainables.tasks import TASKS, Prepared, TensorSplit, Task


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(x)


def split(n, seed):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return TensorSplit(x, x[:, :3].argmax(1))


@TASKS.register("toy")
class Toy(Task):
    """Which of the first three of eight numbers is the largest."""

    size: int = knob(200, IntRange(10, 1000))
    chance = 1 / 3

    def architecture(self):
        return Net()

    def prepare(self, seed):
        net = Net()
        with torch.no_grad():
            net.fc.weight.copy_(torch.eye(3, 8))
            net.fc.bias.zero_()
        data = split(self.size, 1), split(self.size, 2)
        return Prepared(net.eval(), *data, Fingerprint("toy", "toy"))

    def test(self, seed):
        return split(self.size, 3)
'''


@pytest.mark.slow
def test_a_users_own_task_and_network_run_to_the_report(tmp_path):
    (tmp_path / "toy.py").write_text(PLUGIN_TASK)
    config = SMALL.replace("task: digits", "task: toy").replace("int1]", "int1]\n  rest: [none]")
    done = run(
        tmp_path, "--name", "t", "--trials", "3", "--quiet", config=config + "plugins: [toy.py]\n"
    )
    assert done.returncode == 0, done.stderr
    found = state(tmp_path, "t")
    assert {t.record.outcome.status for t in found.ended} <= {Status.COMPLETED, Status.STOPPED}
    assert all(v.verified for v in found.verifications.values())


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_study_with_the_cause(tmp_path):
    broken = "import os\nif os.environ.get('RAY_JOB_ID'):\n    raise RuntimeError('not here')\n"
    (tmp_path / "toy.py").write_text(broken + PLUGIN_TASK)
    config = SMALL.replace("task: digits", "task: toy") + "plugins: [toy.py]\n"
    done = run(tmp_path, "--name", "t", "--quiet", config=config)
    assert done.returncode == 1
    assert "not here" in done.stderr


@pytest.mark.slow
def test_a_log_of_another_study_is_refused_even_without_its_description(folder, finished):
    (folder / "results" / "lost").mkdir()
    log_file = (folder / "results" / "whole" / "log.jsonl").read_bytes()
    (folder / "results" / "lost" / "log.jsonl").write_bytes(log_file)
    refused = run(folder, "--name", "lost", "--resume", "--seed", "5")
    assert refused.returncode == 2
    assert "another space, seed or data" in refused.stderr


def test_a_damaged_log_is_a_sentence(folder, finished):
    damaged = bytearray((folder / "results" / "whole" / "log.jsonl").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "results" / "damaged").mkdir()
    (folder / "results" / "damaged" / "log.jsonl").write_bytes(damaged)
    refused = run(folder, "--name", "damaged", "--resume")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "line" in refused.stderr


@pytest.mark.slow
def test_a_plugin_file_travels_to_the_workers_and_into_the_origin(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from compression.methods import METHODS\n"
        "from compression.methods.quantize.rtn import RoundToNearest\n\n\n"
        "@METHODS.register('my_rtn')\n"
        "class MyRtn(RoundToNearest):\n"
        '    """Rounding under another name."""\n'
    )
    config = SMALL.replace("int1]", "my_rtn]").replace("{rtn: {bits: [2, 3, 4]}}, ", "")
    done = run(tmp_path, "--name", "p", "--trials", "3", config=config + "plugins: [mine.py]\n")
    assert done.returncode == 0, done.stderr
    found = state(tmp_path, "p")
    assert all("mine.py" in r.origin.plugins for r in found.records)
    used = {t.trial.layers[0].methods[0].name for t in found.ended if t.number >= 0}
    assert used == {"my_rtn"}

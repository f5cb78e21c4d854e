"""A trial run again: whether it comes out the same, and what is said where it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from studies import run, state

from clusters.connection import limits
from compression.registry import InvalidSetting
from study import description, log
from study.config import parse_config
from study.events import Ended, Inherited, Opened, Suggested
from study.finished import find_trial
from study.once import prepared
from study.replay import OtherData, main, replay
from study.schedulers import Budget
from study.state import StudyState
from study.store.files import FILE
from study.store.storage import Storage
from trainables.attempt import Attempt
from trainables.record import Origin, Record, Status

CONFIG = """
task: digits
name: small
epochs: 4
scheduler: {asha: {eta: 2}}
calibration: {samples: 64}
space:
  method: [rtn, gptq, svd]
  init: [residual, eora]
  adapter: [none, lora, dora]
  rank: [2]
  optimizer: [adam, {sgd: {lr: [1000.0]}}]
  rest: [none, cast]
"""


class Picks:
    """Answers a space's questions as wished, else with the first or least that there is."""

    def __init__(self, **wished):
        self.wished = wished

    def suggest_categorical(self, name, choices):
        return self.wished.get(name, choices[0])

    def suggest_int(self, name, low, high, *, log=False):
        return self.wished.get(name, low)

    suggest_float = suggest_int


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As a worker of this study computes; the other tests of this process get theirs back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_as_a_worker(config, data, trial, ends):
    """The outcome of a trial that may be stopped after so many epochs, and its files."""
    files = {}

    class Shelf:
        def write_bytes(self, name, content):
            files[name] = content

    space = config.search_space()
    milestones = config.scheduler.milestones(Budget(config.epochs, space.min_fidelity()))
    attempt = Attempt(config.task, data, trial, Shelf())
    while not attempt.finished and (not attempt.so_far.curve or attempt.so_far.epochs_done < ends):
        attempt.advance(milestones)
    return attempt.outcome, files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A storage with one study: a plain trial, a calibrated, a stopped and a failed one."""
    root = tmp_path_factory.mktemp("replay")
    storage, config = Storage.open(root / "made"), parse_config(CONFIG)
    data, space = prepared(config), config.search_space()
    events = [Opened(1.0, "id")]
    first = config.scheduler.milestones(Budget(config.epochs, space.min_fidelity()))[0]
    settings = [
        (Picks(), 0),
        (Picks(method="gptq", adapter="lora"), 4),
        (Picks(method="gptq", adapter="dora", init="eora", rest="cast"), first),
        (Picks(method="svd", adapter="lora", optimizer="sgd"), 4),
    ]
    for number, (picks, ends) in enumerate(settings):
        params = space.define(picks)
        trial = space.to_trial(params, config.seed)
        outcome, files = run_as_a_worker(config, data, trial, ends)
        for name, content in files.items():
            storage.write_bytes(f"artifacts/{name}", content)
        record = Record(trial, outcome, Origin(data.fingerprint, "a" * 40, False, {"torch": "0.1"}))
        events += [
            Suggested(number, "search", params, trial, record.trial_id),
            Ended(number, record.trial_id, record, 2.0),
        ]
    storage.write_bytes(log.FILE, b"".join(map(log.to_line, events)))
    found = StudyState(events)
    description.write(storage, description.describe(config, "made", data, found, []))
    statuses = [t.record.outcome.status for t in found.trials.values()]
    assert statuses == [Status.COMPLETED, Status.COMPLETED, Status.STOPPED, Status.FAILED]
    return root


def found_in(folder, trial):
    return find_trial(str(trial), "made", str(folder))


def silent(text):
    pass


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_trial_comes_out_the_same_to_the_last_bit(folder, number):
    done = replay(found_in(folder, number), silent)
    assert done.same, [check for check in done.checks if not check.same]
    compared = {check.what for check in done.checks}
    assert {"ended", "curve", "metrics", "file bytes", "file sha256", "logits"} <= compared
    assert ("error" in compared) == (number == 3)
    assert {"commit", "torch"} <= {check.what for check in done.environment}


def test_a_stopped_trial_ends_where_it_did_whatever_the_scheduler_is_now(folder):
    found = found_in(folder, 2)
    info = found.study.info
    later = {**info, "config": {**info["config"], "scheduler": "fifo"}}
    done = replay(replace(found, study=replace(found.study, info=later)), silent)
    assert done.same, [check for check in done.checks if not check.same]


def test_what_differs_is_said_and_by_how_much(folder):
    found = found_in(folder, 1)
    outcome = found.record.outcome
    last = outcome.curve[-1]
    moved = replace(last, metrics={**last.metrics, "loss": last.metrics["loss"] + 0.25})
    other = replace(outcome, curve=(*outcome.curve[:-1], moved), sha256="0" * 64, probe="0" * 64)
    done = replay(replace(found, record=replace(found.record, outcome=other)), silent)
    assert not done.same
    apart = {check.what: check.by for check in done.checks if not check.same}
    assert set(apart) == {"curve", "file sha256", "logits"}
    assert "from epoch 4 on" in apart["curve"]
    assert "loss 0.25" in apart["curve"]
    assert apart["logits"] == "at most 0"  # it is the record that lies


def test_a_damaged_study_beside_it_is_skipped_with_a_remark(folder, tmp_path):
    shutil.copytree(folder / "made", tmp_path / "made")
    good = (tmp_path / "made" / log.FILE).read_bytes()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / log.FILE).write_bytes(b"x" + good)
    trial = found_in(folder, 0).trial.trial_id
    found = find_trial(trial, None, str(tmp_path))
    assert found.study.name == "made"
    assert any("broken" in line and "not looked at" in line for line in found.remarks)
    with pytest.raises(InvalidSetting, match="broken.*not looked at"):
        find_trial("no-such-trial", None, str(tmp_path))
    with pytest.raises(log.CorruptLog):
        find_trial(trial, "broken", str(tmp_path))


def test_other_data_is_not_compared_at_all(folder):
    found = found_in(folder, 0)
    moved = replace(found.record.origin.fingerprint, data="elsewhere")
    origin = replace(found.record.origin, fingerprint=moved)
    with pytest.raises(OtherData, match="data: recorded on elsewhere, here"):
        replay(replace(found, record=replace(found.record, origin=origin)), silent)


def test_a_trial_is_found_by_id_beginning_and_number(folder):
    ids = [t.trial_id for t in found_in(folder, 0).study.state.trials.values()]
    for number, trial_id in enumerate(ids):
        assert found_in(folder, number).trial.trial_id == trial_id
        assert found_in(folder, trial_id[:6]).trial.number == number
        assert find_trial(trial_id, None, str(folder)).trial.number == number


@pytest.mark.parametrize(
    ("trial", "study", "text"),
    [
        ("99", "made", "no '99' with a record in study made"),
        ("0", None, "a number needs its --study"),
        ("0", "nix", "no study 'nix'.*there: made"),
        ("abc", "made", "no 'abc'"),
    ],
)
def test_a_trial_that_is_not_there_is_wrong_input(folder, trial, study, text):
    with pytest.raises(InvalidSetting, match=text):
        find_trial(trial, study, str(folder))
    where = ["--study", study] if study else []
    done = CliRunner().invoke(main, [trial, *where, "--storage", str(folder)])
    assert done.exit_code == 2


def test_several_trials_that_begin_alike_are_named(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("study.finished.SHORTEST", 0)
    with pytest.raises(InvalidSetting, match="may be .*number 0 of made.*write more"):
        found_in(folder, "")


def test_one_that_was_taken_over_is_looked_for_where_it_was_run(tmp_path, folder):
    shutil.copytree(folder / "made", tmp_path / "made")
    made = found_in(tmp_path, 1)
    later = Storage.open(tmp_path / "later")
    lost = replace(made.record, outcome=replace(made.record.outcome, sha256=None, probe=None))
    events = [Opened(9.0, "id"), Inherited(0, {}, made.trial.trial_id, lost, "made")]
    later.write_bytes(log.FILE, b"".join(map(log.to_line, events)))
    later.write_text(FILE, made.study.storage.read_text(FILE))
    found = find_trial("0", "later", str(tmp_path))
    assert (found.study.name, found.trial.number) == ("made", 1)
    assert found.record == made.record
    assert find_trial(made.trial.trial_id, None, str(tmp_path)).study.name == "made"
    shutil.rmtree(tmp_path / "made")
    alone = find_trial("0", "later", str(tmp_path))
    assert alone.study.name == "later"
    assert "run in made, which is not here" in alone.remarks[0]
    assert replay(alone, silent).same  # but for the file, which is gone


def test_a_plugin_file_that_is_missing_is_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = found_in(folder, 0)
    info = dict(found.study.info)
    info["config"] = {**info["config"], "plugins": ["my_task.py"]}
    info["plugins"] = {"my_task.py": "c0ffee" * 8}
    with pytest.raises(InvalidSetting, match=r"my_task.py \(sha256 c0ffee.*folder that holds it"):
        replay(replace(found, study=replace(found.study, info=info)), silent)


def test_threads_are_limited_before_torch_is_there(folder):
    """The command asks for the study's threads while no library has counted the cores yet."""
    code = (
        "import sys, os, study.replay as r\n"
        "def seen(found, say):\n"
        f"    wanted = {limits(1)!r}\n"
        "    ok = 'torch' not in sys.modules and wanted.items() <= dict(os.environ).items()\n"
        "    raise r.StudyError('early' if ok else 'late')\n"
        "r.replay = seen\n"
        "r.main()"
    )
    free = {key: value for key, value in os.environ.items() if key not in limits(1)}
    done = subprocess.run(
        [sys.executable, "-c", code, "0", "--study", "made", "--storage", str(folder)],
        capture_output=True, text=True, env=free, timeout=60,
    )  # fmt: skip
    assert done.stderr.strip() == "early"


FAILING = """
task: digits
trials: 12
epochs: 8
searcher: random
scheduler: {asha: {eta: 2}}
space:
  method: [gptq, awq, ternary, [svd, rtn]]
  init: [eora, pissa]
  adapter: [none, lora, {dora: {dtype: [float16]}}]
  rank: [2]
  optimizer: [adam, muon, {sgd: {lr: [1000.0]}}]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_trial_of_a_real_study_is_repeated_by_its_command(tmp_path):
    done = run(tmp_path, "--name", "whole", config=FAILING)
    assert done.returncode == 0, done.stderr
    trials = state(tmp_path, "whole").ended
    assert {t.phase.value for t in trials} == {"completed", "stopped", "failed"}
    for trial in trials:
        again = subprocess.run(
            [sys.executable, "-m", "study.replay", trial.trial_id, "--study", "whole", "--json"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert again.returncode == 0, again.stdout + again.stderr
        assert json.loads(again.stdout)["same"]

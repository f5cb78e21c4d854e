"""Models of a front timed beside the dense one: what is compared, kept, written and shown."""

import json
from dataclasses import replace

import pytest
import synthetic_study as synthetic
import torch
from click.testing import CliRunner
from networks import rule
from pyarrow import fs
from tiny_task import TinyTask

from analysis.load import StudyDataError, load_study
from analysis.report import write_report
from compression.artifact import serialize
from compression.footprint import resident_bytes
from compression.model import compress_model
from study import speed as command
from trainables import latency
from trainables.latency import timed_together
from trainables.speed import DECODED, DENSE, PACKED, Called, Spread, measured


def compressed(task):
    model = task.prepare(0).model
    return serialize(compress_model(model, [rule("rtn")], task.targets))


@pytest.fixture(scope="module")
def found():
    task = TinyTask()
    data = task.prepare(0)
    made = measured(task, data.model, compressed(task), data.validation, (1, 32), 0.02)
    return task, data, made


def test_each_form_is_timed_at_each_batch_and_keeps_what_it_keeps(found):
    task, data, speed = found
    wanted = [1, min(32, len(data.validation))]
    assert set(speed.forms) == {DENSE, DECODED, PACKED}
    for form in speed.forms.values():
        assert [call.batch for call in form.calls] == wanted
        for call in form.calls:
            assert 0 < call.milliseconds.low <= call.milliseconds.median <= call.milliseconds.high
            assert call.peak_bytes > form.resident_bytes
    assert speed.forms[DENSE].resident_bytes == resident_bytes(data.model)
    assert speed.forms[PACKED].resident_bytes < speed.forms[DECODED].resident_bytes
    assert all(call.gain.median == 1 for call in speed.forms[DENSE].calls)
    assert speed.file_bytes == len(compressed(task))
    assert sum(speed.kernels.values()) > 0


@pytest.mark.parametrize(
    ("low", "high", "said"), [(1.1, 1.3, "faster"), (0.7, 0.9, "slower"), (0.9, 1.1, "alike")]
)
def test_a_verdict_needs_three_calls_of_four(low, high, said):
    gain = Spread((low + high) / 2, low, high, 9)
    assert Called(1, Spread.of([1.0, 2.0, 3.0]), gain, 0).verdict == said


def test_runs_take_turns():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timed_together(runs, 0.0)
    turns = [calls[i : i + 3] for i in range(3 * latency.WARM_UP, len(calls), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert {len(found) for found in times.values()} == {len(turns)} == {latency.FEWEST}


def test_the_report_has_a_row_for_each(found, tmp_path):
    speed = found[2]
    timed = {
        "at": "2026-01-01",
        "machine": "a <b>machine</b>",
        "points": [{"trial_id": "t1", "setting": "rtn | 2", **command.plain(speed)}],
    }
    study = replace(synthetic.study(), speed=json.loads(json.dumps(timed)))
    paths = write_report(study, fs.LocalFileSystem(), str(tmp_path), formats=("md",))
    text = open(paths.md, encoding="utf-8").read()
    section = text.partition("## Speed and memory")[2].partition("\n## ")[0]
    assert section.count("| `t1` |") == 3 * len(speed.forms[DENSE].calls)
    assert "<b>" not in section
    broken = replace(study, speed={"points": [{}]})
    with pytest.raises(StudyDataError, match=r"speed\.json"):
        write_report(broken, fs.LocalFileSystem(), str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_on_a_real_study(tmp_path, monkeypatch):
    from studies import run

    assert run(tmp_path, "--name", "s", "--trials", "4").returncode == 0
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        made = CliRunner().invoke(command.main, ["s", "--seconds", "0.05", "--json"])
    finally:
        torch.set_num_threads(threads)
    assert made.exit_code == 0, made.output
    study = load_study("results/s")
    assert study.speed == json.loads(made.output)
    assert {point["trial_id"] for point in study.speed["points"]} <= set(study.verifications)
    for arguments, said in [(["none"], "no study"), (["s", "--max-bytes", "x"], "bytes")]:
        wrong = CliRunner().invoke(command.main, arguments)
        assert wrong.exit_code == 2
        assert said in wrong.output

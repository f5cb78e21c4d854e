"""Calibration of a study: examples chosen by its seed, statistics taken once for all trials."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_task import TinyTask, make_trial, split
from torch import nn

from compression.collecting import collect
from compression.registry import InvalidSetting
from trainables import calibration as kept
from trainables import kept_statistics
from trainables.build import build, calibration_seconds
from trainables.calibration import calibrated, statistics


def test_examples_are_chosen_by_the_seed_and_named_in_the_fingerprint():
    plain = TinyTask().prepare(0)
    one, same, other = (calibrated(plain, 20, seed) for seed in (0, 0, 1))
    assert len(one.calibration) == len(one.calibration.unique()) == 20
    assert torch.equal(one.calibration, same.calibration)
    assert not torch.equal(one.calibration, other.calibration)
    ids = {make_trial().trial_id(d.fingerprint) for d in (plain, one, same, other)}
    assert len(ids) == 3
    assert len(calibrated(plain, 1_000, 0).calibration) == len(plain.train)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """How often statistics were taken, with an empty cache."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    fresh(monkeypatch)
    calls, real = [], kept.collect
    monkeypatch.setattr(kept, "collect", lambda *a: calls.append(a[2]) or real(*a))
    return calls


def fresh(monkeypatch):
    """As in another process."""
    monkeypatch.setattr(kept_statistics, "_known", {})


def test_statistics_are_taken_once_and_come_back_as_they_were(counted, monkeypatch):
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    first = statistics(task, data, {"inputs", "gradients"})
    direct = collect(data.model, ["0", "6"], {"inputs", "gradients"}, kept.examples(task, data))
    fresh(monkeypatch)
    again = statistics(task, data, {"gradients", "inputs"})
    assert len(counted) == 2  # one a kind
    assert set(again) == {"0", "3", "6", "8"}
    assert again.seconds == first.seconds > 0
    for name, expected in direct.items():
        assert torch.equal(again[name].inputs.second_moment, expected.inputs.second_moment)
        assert again[name].inputs.count == expected.inputs.count
        assert torch.equal(again[name].gradients.mean, expected.gradients.mean)


def test_a_damaged_file_is_made_again(counted, monkeypatch, tmp_path):
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    found = statistics(task, data, {"inputs"})
    whole = found["6"].inputs.mean.clone()
    (file,) = tmp_path.glob("calibration/*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 64
    file.unlink()  # else it would change under what is mapped
    file.write_bytes(content)
    fresh(monkeypatch)
    assert torch.equal(statistics(task, data, {"inputs"})["6"].inputs.mean, whole)
    assert len(counted) == 2


def test_other_weights_or_examples_have_statistics_of_their_own(counted):
    task = TinyTask()
    plain = task.prepare(0)
    for seed in (0, 1):
        statistics(task, calibrated(plain, 16, seed), {"inputs"})
    assert len(counted) == 2


def test_only_trials_that_need_it_bear_its_cost():
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    assert calibration_seconds(task, data, make_trial("rtn")) == 0
    assert calibration_seconds(task, data, make_trial("gptq")) > 0
    assert calibration_seconds(task, data, make_trial("rtn", init="eora")) > 0


def test_a_trial_is_the_same_with_statistics_given_and_taken():
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    first, again = (build(task, data, make_trial("gptq", init="eora")) for _ in range(2))
    x = split(8, 4).tensors
    assert torch.equal(first(x), again(x))


def test_no_calibration_is_refused_in_a_sentence():
    task = TinyTask()
    with pytest.raises(InvalidSetting, match="gptq: needs calibration"):
        build(task, task.prepare(0), make_trial("gptq"))


def test_a_cache_that_cannot_be_written_costs_time_not_the_result(counted, monkeypatch, caplog):
    monkeypatch.setenv("PARETUNE_CACHE", "/dev/null/no")
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    first = statistics(task, data, {"inputs"})
    assert "not kept for other processes" in caplog.text
    assert statistics(task, data, {"inputs"})["6"].inputs.count == first["6"].inputs.count
    assert len(counted) == 1


def test_a_file_that_goes_while_it_is_used_changes_nothing(counted, tmp_path):
    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    found = statistics(task, data, {"inputs"})
    mean = found["6"].inputs.mean.clone()
    (file,) = tmp_path.glob("calibration/*.safetensors")
    file.unlink()
    assert torch.equal(statistics(task, data, {"inputs"})["6"].inputs.mean, mean)
    assert len(counted) == 1


def test_the_oldest_go_where_the_budget_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_statistics, "SHARE", 0.0)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="above the budget"):
        kept_statistics._make_room(tmp_path, 10)
    assert not list(tmp_path.glob("*.safetensors"))


def test_other_code_of_the_model_means_other_statistics(counted):
    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + 1

    task = TinyTask()
    data = calibrated(task.prepare(0), 16, 0)
    before = statistics(task, data, {"inputs"})["8"].inputs.mean
    other = copy.deepcopy(data.model)
    other[7] = Shifted()
    after = statistics(task, replace(data, model=other), {"inputs"})["8"].inputs.mean
    torch.testing.assert_close(after, before + 1)
    assert len(counted) == 2

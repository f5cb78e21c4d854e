"""What a device may not change, and what precision does; on the CPU."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_task import Shelf, TinyTask, make_trial
from torch import nn

from trainables.attempt import Attempt
from trainables.hardware import devices
from trainables.record import RecordError, Status, canonical
from trainables.stage import whole

TASK = TinyTask()
CPU = torch.device("cpu")


def run(device=CPU, **more):
    shelf = Shelf()
    attempt = Attempt(TASK, TASK.prepare(0), make_trial(**more), shelf, device)
    while not attempt.finished:
        attempt.advance()
    return attempt, shelf


def test_a_device_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick("auto") == devices.pick("cpu") == CPU
    with pytest.raises(devices.NoDevice, match=r"set resources\.gpus to 0"):
        devices.pick("cuda")
    with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
        devices.pick("gpu")


def test_on_the_cpu_a_stage_is_as_it_was():
    data = TASK.prepare(0)
    stage = whole(TASK, data.model, data)
    assert devices.place(stage, CPU) is stage


def test_resident_splits_hand_out_the_same():
    split = TASK.prepare(0).train
    held = devices.Resident(split, split.tensors)
    assert held.digest == split.digest
    for mine, theirs in zip(held.batches(17, _seeded()), split.batches(17, _seeded()), strict=True):
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.labels, theirs.labels)


def _seeded():
    return torch.Generator().manual_seed(3)


def test_splits_that_are_large_beside_the_card_stay(monkeypatch):
    split = TASK.prepare(0).train
    monkeypatch.setattr(devices, "total_memory", lambda device: split.tensors.nbytes * 32)
    assert isinstance(devices.resident(split, CPU), devices.Resident)
    monkeypatch.setattr(devices, "total_memory", lambda device: split.tensors.nbytes * 31)
    assert devices.resident(split, CPU) is split


@pytest.fixture
def pretend(monkeypatch):
    """The way of a device that is none: the copy and the forward that sends, on the CPU."""

    class Pretended(str):
        type = "pretended"

    monkeypatch.setattr(devices, "total_memory", lambda device: 2**40)
    monkeypatch.setattr(devices, "move", lambda model, device: model)
    monkeypatch.setattr(devices, "send", lambda inputs, device: inputs)
    monkeypatch.setattr(
        devices, "resident", lambda split, device: devices.Resident(split, split.tensors)
    )
    return Pretended()


def test_what_is_saved_and_probed_comes_from_the_cpu_copy(pretend):
    here, shelf = run()
    there, other = run(pretend)
    assert there.stage is not there.shipped
    assert there.stage.model is not there.shipped.model
    assert shelf.files == other.files
    assert here.outcome.curve[-1].metrics == there.outcome.curve[-1].metrics


def test_default_precision_leaves_identities_alone():
    plain = make_trial()
    assert "precision" not in canonical(plain)
    assert plain == make_trial(precision="float32")
    assert canonical(make_trial(precision="bfloat16")) != canonical(plain)
    with pytest.raises(RecordError, match="precision: expected one of float32, bfloat16, float16"):
        make_trial(precision="fp8")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_half_scores_in_single(precision):
    full, _ = run()
    half, shelf = run(precision=precision)
    assert half.outcome.status is Status.COMPLETED
    losses = [[r.train_loss for r in a.so_far.curve[1:]] for a in (full, half)]
    assert losses[0] != losses[1]
    assert torch.tensor(losses[0]) == pytest.approx(torch.tensor(losses[1]), rel=0.05)
    # Before any training nothing was computed in half.
    assert full.so_far.curve[0].metrics == half.so_far.curve[0].metrics
    assert all(p.dtype == torch.float32 for p in half.stage.model.parameters())


def test_scaled_training_goes_on_as_it_was():
    whole_run, _ = run(precision="float16")
    first = Attempt(TASK, TASK.prepare(0), make_trial(precision="float16"), Shelf())
    first.advance([2])
    second = Attempt(TASK, TASK.prepare(0), make_trial(precision="float16"), Shelf())
    second.restore(first.state())
    while not second.finished:
        second.advance()
    mine, theirs = second.outcome.curve, whole_run.outcome.curve
    assert [r.metrics for r in mine] == [r.metrics for r in theirs]


def test_a_finished_trial_lets_go_and_keeps_its_outcome():
    attempt, _ = run()
    outcome = attempt.outcome
    attempt.drop()
    assert attempt.outcome is outcome
    assert (attempt.stage, attempt.shipped, attempt.run) == (None, None, None)


def test_an_allocation_that_is_refused_is_the_outcomes_cause(monkeypatch):
    monkeypatch.setattr(TASK.__class__, "loss", lambda *_: torch.empty(2**60))
    attempt, _ = run()
    assert attempt.outcome.status is Status.OUT_OF_MEMORY
    assert attempt.outcome.cause == "out of memory"
    assert "allocate" in attempt.outcome.error


def test_peak_memory_is_in_the_outcome():
    attempt, _ = run()
    if attempt.meter.peak() is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert attempt.outcome.peak_memory > 1e7


def test_threads(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch, "get_num_interop_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_interop_threads", partial(_refuse, set_to))
    devices.limit_threads(2)
    assert set_to == [2, 2]


def _refuse(set_to, threads):
    set_to.append(threads)
    raise RuntimeError("parallel work has started")


def test_channels_last_changes_no_logits_beyond_rounding():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        before = model(images)
        after = model.to(memory_format=torch.channels_last)(images)
    assert torch.allclose(before, after, atol=1e-5)

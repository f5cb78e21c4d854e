"""What must hold where CUDA is. Left out elsewhere: ``pytest -m gpu``."""

from __future__ import annotations

import pytest
import torch
from tiny_task import Shelf, TinyTask, make_trial

from trainables.attempt import Attempt
from trainables.hardware import devices, memory, peak
from trainables.hardware.sending import send_tensor
from trainables.probes import probe, tensor_hash
from trainables.record import OUT_OF_MEMORY, Choice, Status
from trainables.so_far import holding
from trainables.tasks import TensorSplit

pytestmark = pytest.mark.gpu
TASK = TinyTask()


@pytest.fixture
def cuda():
    return devices.pick("cuda")  # raises, and says why, where there is none


def run(device, **more):
    shelf = Shelf()
    attempt = Attempt(TASK, TASK.prepare(0), make_trial(**more), shelf, device)
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    return attempt, shelf


FADING = {"method": "drop_base", "recipe": Choice("progressive", {"relative": True})}


@pytest.mark.parametrize("asked", [{}, FADING, FADING | {"init": "residual"}])
def test_same_start_and_same_losses_on_both_devices(cuda, asked):
    here, mine = run(devices.CPU, **asked)
    there, theirs = run(cuda, **asked)
    assert there.stage.model[0].weight.device == cuda
    starts = [a.outcome.curve[0].metrics for a in (here, there)]
    assert starts[0] == pytest.approx(starts[1], rel=1e-5)
    losses = [[r.train_loss for r in a.outcome.curve[1:]] for a in (here, there)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert here.outcome.size == there.outcome.size
    assert mine.files.keys() == theirs.files.keys()


def test_the_file_is_a_cpu_model_whose_logits_are_bitwise_the_probes(cuda):
    there, _ = run(cuda)
    stage = there.shipped
    assert all(p.device.type == "cpu" for p in stage.model.parameters())
    with holding(stage.model, there.so_far.best_params):
        found = tensor_hash(probe(stage.forward, stage.validation))
    assert found == there.outcome.probe


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_scores_in_single(cuda, precision):
    full, _ = run(cuda)
    half, _ = run(cuda, precision=precision)
    assert half.outcome.curve[0].metrics == pytest.approx(full.outcome.curve[0].metrics)
    losses = [[r.train_loss for r in a.outcome.curve[1:]] for a in (full, half)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_pinned_transfers_bring_the_same_numbers(cuda):
    tensor = torch.randn(1000, 33)
    sent = send_tensor(tensor[::2], cuda)
    assert sent.device == cuda
    assert torch.equal(sent.cpu(), tensor[::2])
    assert send_tensor(sent, cuda) is sent


def test_small_splits_live_on_the_card(cuda):
    split = TASK.prepare(0).train
    held = devices.resident(split, cuda)
    assert isinstance(held, devices.Resident)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    for ours, theirs in zip(
        held.batches(32, generators[0]), split.batches(32, generators[1]), strict=True
    ):
        assert torch.equal(ours.inputs.cpu(), theirs.inputs)
        assert torch.equal(ours.labels, theirs.labels)


class Greedy(TinyTask):
    """Asks for more than any card has, at its first step."""

    def loss(self, outputs, labels):
        most = 2 * torch.cuda.get_device_properties(0).total_memory
        return torch.empty(most, dtype=torch.uint8, device=outputs.device)


def test_a_real_refusal_is_out_of_memory_and_leaves_the_card_usable(cuda):
    attempt = Attempt(Greedy(), TASK.prepare(0), make_trial(), Shelf(), cuda)
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.cause == OUT_OF_MEMORY
    attempt.drop()
    memory.release()
    run(cuda)


def test_nothing_is_left_on_the_card(cuda):
    def once():
        attempt, _ = run(cuda)
        attempt.drop()
        memory.release()
        return torch.cuda.memory_allocated()

    once()
    after = [once() for _ in range(5)]
    assert max(after) <= min(after) * 1.02 + 1024


def test_peak_memory_is_of_this_trial(cuda):
    large = TensorSplit(torch.zeros(2**26, device=cuda), torch.zeros(2**26, dtype=torch.long))
    del large
    attempt, _ = run(cuda)
    assert 0 < attempt.outcome.peak_memory < 2**26


def test_a_step_is_measured_with_the_context(cuda):
    found = peak.measure(TASK, TASK.prepare(0), make_trial())
    assert found.error is None
    assert 2**26 < found.taken < found.total

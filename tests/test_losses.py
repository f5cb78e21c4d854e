"""The contract of every loss, and what each of them is."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from networks import variants
from tiny_task import Shelf, TinyTask, dense, make_trial
from torch import nn
from torch.nn import functional as F

from compression.artifact import deserialize
from compression.model import trainable
from trainables.attempt import Attempt
from trainables.build import build
from trainables.calibration import calibrated
from trainables.checkpoint import State
from trainables.hardware.devices import CPU
from trainables.losses import LOSSES, Lessons, losses_of
from trainables.recipes import RECIPES
from trainables.record import Choice, LayerRule, Status
from trainables.stage import whole
from trainables.tasks import observe

EVERY = [Choice(loss.name, loss.args()) for loss in variants(LOSSES)]
every_loss = pytest.mark.parametrize("loss", EVERY, ids=str)


class Tokens(TinyTask):
    """A class for each of several positions; labels below 0 do not count."""

    def loss(self, outputs, labels):
        return F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=-100)

    def predictions(self, outputs, labels):
        return outputs[labels >= 0], labels[labels >= 0]


class Known(nn.Module):
    """A teacher with these logits, whatever it is shown."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs


def lessons(task=None, teacher=None):
    task = task or TinyTask()
    data = task.prepare(0)
    data = replace(data, model=teacher or data.model)
    return Lessons(task, whole(task, dense(), data), CPU)


def aim(*choices, given=None):
    """A training loss over the task's own."""
    given = given or lessons()
    return losses_of(
        choices, lambda inputs, outputs, labels: given.task.loss(outputs, labels), given
    )


def batch(count=12):
    torch.manual_seed(4)
    images, labels = torch.randn(count, 1, 8, 8), torch.arange(count) % 7
    return images, torch.randn(count, 7, requires_grad=True), labels


def start(*losses, **settings):
    task, settings = TinyTask(), {"method": "int1", **settings}
    trial = make_trial(losses=losses, **settings)
    data = task.prepare(0)
    stage = whole(task, build(task, data, trial), data)
    return RECIPES.build("recover").start(stage, task, trial)


def advance(run, epochs):
    return [run.advance() for _ in range(epochs)]


# --- the contract ----------------------------------------------------------------------------


@every_loss
def test_it_is_a_scalar_with_gradients_and_the_same_twice(loss):
    made, given = aim(loss), batch()
    state = torch.get_rng_state()
    found = made(*given)
    assert found.shape == ()
    assert torch.isfinite(found)
    found.backward()
    assert torch.isfinite(given[1].grad).all()
    assert given[1].grad.abs().max() > 0
    assert torch.equal(made(*given), found)
    assert torch.equal(torch.get_rng_state(), state)


@every_loss
def test_it_is_the_same_whatever_the_order_of_the_examples(loss):
    made, (images, outputs, labels) = aim(loss), batch()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        made(images[order], outputs[order], labels[order]), made(images, outputs, labels)
    )


@every_loss
def test_large_logits_stay_finite(loss):
    images, outputs, labels = batch()
    large = (outputs.detach() * 1e4).requires_grad_()
    found = aim(loss)(images, large, labels)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(large.grad).all()


@every_loss
def test_a_training_by_it_goes_on_bitwise_and_learns(loss):
    straight = start(loss)
    first = advance(straight, 2)
    saved = straight.state().to_bytes()
    ahead = advance(straight, 2)
    resumed = start(loss)
    resumed.restore(State.from_bytes(saved))
    assert advance(resumed, 2) == ahead
    assert resumed.state().to_bytes() == straight.state().to_bytes()
    assert all(math.isfinite(progress.train_loss) for progress in first + ahead)
    assert ahead[-1].train_loss < first[0].train_loss


@every_loss
def test_the_dense_model_is_neither_trained_nor_given_gradients(loss):
    run = start(loss)
    dense_model = run.stage.dense
    before = {k: v.clone() for k, v in dense_model.state_dict().items()}
    advance(run, 2)
    assert all(torch.equal(v, before[k]) for k, v in dense_model.state_dict().items())
    assert all(p.grad is None for p in dense_model.parameters())
    assert all(p.grad is not None for p in trainable(run.stage.model))


@every_loss
def test_what_ships_is_scored_by_the_task_alone(loss):
    task, shelf = TinyTask(), Shelf()
    one = Attempt(task, calibrated(task.prepare(0), 24, 0), make_trial(losses=(loss,)), shelf)
    while not one.finished:
        one.advance()
    assert one.outcome.status is Status.COMPLETED, one.outcome.error
    model = deserialize(shelf.files[f"{one.trial_id}.safetensors"], task.architecture())
    validation = one.data.validation
    found = task.score(observe(task, model, validation), validation.labels)
    assert found == one.outcome.metrics["val"]


@every_loss
def test_it_is_the_same_on_cached_features(loss):
    """The trained part begins at the last layer: what it learns from does too."""
    rule = LayerRule((Choice("int1"),), adapter=Choice("lora"), rank=2, pattern="8")
    curves = []
    for cached in (True, False):
        task = TinyTask()
        trial = make_trial(layers=(rule,), losses=(loss,))
        one = Attempt(task, calibrated(task.prepare(0), 24, 0), trial, Shelf(), cached=cached)
        while not one.finished:
            one.advance()
        curves.append([report.train_loss for report in one.outcome.curve[1:]])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize("pair", itertools.permutations(LOSSES, 2), ids=str)
def test_two_losses_are_the_second_over_the_first(pair):
    given, made = lessons(), batch()
    both = aim(*map(Choice, pair), given=given)(*made)
    first = aim(Choice(pair[0]), given=given)
    second = LOSSES.build(pair[1]).over(first, given)
    assert torch.equal(both, second(*made))


def test_no_loss_is_the_tasks_own():
    images, outputs, labels = batch()
    expected = F.cross_entropy(outputs, labels)
    assert torch.equal(aim()(images, outputs, labels), expected)
    assert torch.equal(aim(Choice("task"))(images, outputs, labels), expected)


# --- label smoothing -------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.999])
def test_label_smoothing_is_torchs(smoothing):
    images, outputs, labels = batch()
    found = aim(Choice("label_smoothing", {"smoothing": smoothing}))(images, outputs, labels)
    expected = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_leaves_out_what_the_task_does(smoothing):
    torch.manual_seed(0)
    outputs, labels = torch.randn(5, 6, 7), torch.randint(7, (5, 6))
    labels[:, 4:] = -100
    given = lessons(Tokens())
    made = aim(Choice("label_smoothing", {"smoothing": smoothing}), given=given)
    expected = F.cross_entropy(
        outputs.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=smoothing
    )
    torch.testing.assert_close(made(outputs, outputs, labels), expected)


# --- distillation ----------------------------------------------------------------------------


def distil(outputs, taught, weight=1.0, temperature=2.0, task=None, labels=None):
    """The loss of logits beside a teacher's."""
    given = lessons(task, Known(taught))
    labels = torch.arange(len(outputs)) % 7 if labels is None else labels
    made = aim(Choice("distil", {"weight": weight, "temperature": temperature}), given=given)
    return made(taught, outputs, labels)


def logits(count=12):
    torch.manual_seed(4)
    return torch.randn(count, 7, requires_grad=True), torch.randn(count, 7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
def test_the_dense_model_has_nothing_to_learn_from_itself(temperature):
    given = lessons()
    images, _, labels = batch()
    outputs = given.stage.forward(images).detach().requires_grad_()
    made = aim(Choice("distil", {"weight": 1.0, "temperature": temperature}), given=given)
    loss = made(images, outputs, labels)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() < 1e-6 * temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_divergence_of_the_softened_softmaxes(temperature):
    student, teacher = logits()
    p, q = ((values / temperature).softmax(-1) for values in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(distil(student, teacher, temperature=temperature), expected)
    assert expected > 0


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_blends_it_with_the_tasks_loss(weight):
    student, teacher = logits()
    own = F.cross_entropy(student, torch.arange(12) % 7)
    expected = (1 - weight) * own + weight * distil(student, teacher)
    torch.testing.assert_close(distil(student, teacher, weight), expected)


def test_gradients_keep_their_size_at_high_temperatures():
    """They come to those of ``mean of |z - v|^2 / (2 c)`` between centred logits z and v."""

    def gradient(temperature):
        student, teacher = logits()
        distil(student, teacher, temperature=temperature).backward()
        return student.grad

    student, teacher = logits()
    gap = (student - teacher).detach()
    limit = (gap - gap.mean(-1, keepdim=True)) / (gap.shape[-1] * len(gap))
    torch.testing.assert_close(gradient(100.0), limit, rtol=0.0, atol=0.03 * limit.abs().max())
    far = [(gradient(t) - limit).norm() / limit.norm() for t in (5.0, 20.0, 80.0)]
    assert far == sorted(far, reverse=True)
    assert 0.9 < gradient(100.0).norm() / gradient(20.0).norm() < 1.1


def test_a_constant_added_to_all_logits_teaches_nothing():
    student, teacher = logits()
    moved = distil(student, teacher + 5.0)
    torch.testing.assert_close(moved, distil(student, teacher))


def test_distillation_counts_the_positions_that_the_task_does():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 6, 7), torch.randn(5, 6, 7)
    labels = torch.randint(7, (5, 6))
    labels[:, 4:] = -100
    found = distil(student, teacher, task=Tokens(), labels=labels)
    expected = distil(student[:, :4].flatten(0, 1), teacher[:, :4].flatten(0, 1))
    torch.testing.assert_close(found, expected)

"""PC-LoRA: the base fades out, and what ships never holds it."""

import math

import pytest
import safetensors.torch
import torch
from fading import Head, Own, images, moved, put, started, trial
from networks import rule
from tiny_task import Shelf, TinyTask, dense, make_trial
from torch import nn

from compression.artifact import deserialize
from compression.model import compress_model
from compression.registry import InvalidSetting
from trainables import features
from trainables.attempt import Attempt
from trainables.build import build
from trainables.checkpoint import State
from trainables.frozen.recall import recalling
from trainables.recipes import RECIPES
from trainables.recipes.progressive import DECAYS
from trainables.record import Choice, LayerRule, Trial
from trainables.stage import whole
from trainables.tasks.base import observe


@pytest.mark.parametrize("init", ["zeros", "residual"])
def test_at_the_start_the_blend_is_the_dense_model(init):
    run = started(init=init)
    assert run.fade == 1
    outputs = run.blended()(images())
    torch.testing.assert_close(outputs, dense()(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decay", DECAYS)
def test_decays_fall_from_one_to_zero(decay):
    values = [DECAYS[decay](t / 20) for t in range(21)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in zip(values, values[1:], strict=False))


def test_sine_falls_at_once_and_cosine_late():
    assert DECAYS["sine"](0.5) == pytest.approx(1 - math.sqrt(0.5))
    assert DECAYS["cosine"](0.5) == pytest.approx(math.sqrt(0.5))
    assert DECAYS["linear"](0.25) == 0.75


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_blend_is_the_formula(share):
    """``y = lambda (W x + b) + B A x + c``, layer by layer."""
    run = put(moved(started()), share)
    fade, x = run.fade, images()
    assert 0 < fade < 1
    model, teacher = run.stage.model, dense()
    for index, layer in enumerate(teacher):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            x = layer(x)
            continue
        ours = model[index]
        delta = ours.lora_B["default"](ours.lora_A["default"](x))  # alpha is the rank: scale 1
        c = ours.base_layer.bias
        shape = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        x = fade * layer(x) + delta + (0 if c is None else c.view(shape))
    torch.testing.assert_close(run.blended()(images()), x, rtol=1e-4, atol=1e-5)


def test_at_lambda_zero_the_weights_are_not_touched():
    """Weights that are NaN reach the blend, and nothing once lambda is 0."""
    task = Own(dense())
    run = moved(started(task))
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.fill_(torch.nan)
    blend = put(run, 0.5).blended()(images())
    assert blend.isnan().all()
    put(run, 1)
    assert run.fade == 0
    assert run.blended() is run.stage.forward
    # BatchNorm belongs to what is left as it was, so it is put right again.
    run.stage.model[1].load_state_dict(dense()[1].state_dict())
    assert run.blended()(images()).isfinite().all()


@pytest.mark.parametrize("end", [0.01, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("epochs", [1, 5, 10])
def test_nothing_is_stopped_before_lambda_is_zero(end, epochs):
    recipe = RECIPES.build("progressive", {"end": end})
    least = recipe.min_fidelity(epochs)
    assert least <= epochs
    run = started(end=end, epochs=epochs)
    run.steps = least * run.total_steps // epochs
    assert run.fade == 0
    if least > 1:
        run.steps = (least - 1) * run.total_steps // epochs
        assert run.fade > 0


def test_reports_are_of_what_ships_and_the_blend_stands_beside():
    task, shelf = TinyTask(), Shelf()
    data = task.prepare(0)
    attempt = Attempt(task, data, trial(end=0.6), shelf)
    while not attempt.finished:
        attempt.advance()
    reports = attempt.outcome.curve
    assert reports[0].metrics["blended_accuracy"] == 1  # the dense model made the labels
    assert reports[0].metrics["accuracy"] < 0.5
    for report in reports[3:]:
        assert report.metrics["blended_accuracy"] == report.metrics["accuracy"]
    file = deserialize(shelf.files[f"{attempt.trial_id}.safetensors"], task.architecture())
    observed = observe(task, lambda x: task.forward(file, x), data.validation)
    assert task.score(observed, data.validation.labels)["accuracy"] == pytest.approx(
        attempt.outcome.metrics["val"]["accuracy"]
    )


def test_the_base_is_gone_from_the_file():
    """What a layer's file holds is A, B and c: counted from the file, not from what we say."""
    task, shelf = TinyTask(), Shelf()
    attempt = Attempt(task, task.prepare(0), trial(), shelf)
    while not attempt.finished:
        attempt.advance()
    tensors = safetensors.torch.load(shelf.files[f"{attempt.trial_id}.safetensors"])
    dense_layers = {"0": (6, 9, 0), "3": (5, 54, 1), "6": (12, 45, 1), "8": (7, 12, 1)}
    for name, (rows, columns, has_bias) in dense_layers.items():
        own = {key: t for key, t in tensors.items() if key.startswith(f"{name}.")}
        assert sum(t.numel() for t in own.values()) == 2 * (rows + columns) + has_bias * rows
        assert f"{name}.weight" not in own
    assert attempt.outcome.size.targets.base == 0


@pytest.mark.parametrize("rest", ["none", "cast"])
def test_biases_are_trained_and_stored(rest):
    task, shelf = TinyTask(), Shelf()
    data, asked = task.prepare(0), trial()
    asked = make_trial(**{"method": "drop_base", "recipe": asked.recipe, "rest": Choice(rest)})
    before = {n: p.detach().clone() for n, p in data.model.named_parameters()}
    attempt = Attempt(task, data, asked, shelf)
    while not attempt.finished:
        attempt.advance()
    tensors = safetensors.torch.load(shelf.files[f"{attempt.trial_id}.safetensors"])
    assert tensors["8.bias"].dtype is (torch.float16 if rest == "cast" else torch.float32)
    assert tensors["8.bias"].abs().sum() > 0
    assert not torch.equal(tensors["8.bias"].float(), before["8.bias"])
    assert all(torch.equal(p, before[n]) for n, p in data.model.named_parameters())


def test_on_cached_features_training_is_that_of_the_whole_model():
    def trained(stage_of):
        task = Head()
        data, asked = task.prepare(0), trial()
        stage = stage_of(task, data, build(task, data, asked))
        run = RECIPES.build("progressive").start(stage, task, asked)
        return [run.advance().train_loss for _ in range(3)]

    cached = trained(lambda task, data, model: recalling(features.stage(task, data, model)))
    plain = trained(lambda task, data, model: whole(task, model, data))
    assert cached == pytest.approx(plain, rel=1e-4)


REFUSED = {
    "a base that stays": ({"method": "int1"}, {}, "int1 keeps it"),
    "a feature that is not there": ({}, {"features": "blocks.9.*"}, r"'blocks\.9\.\*' matches no"),
}


@pytest.mark.parametrize(("settings", "recipe", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_is_refused(settings, recipe, message):
    with pytest.raises(InvalidSetting, match=message):
        started(**settings, **recipe)


@pytest.mark.parametrize("end", [0.0, -0.5, 1.5, 1e9])
def test_a_decay_that_ends_outside_training_is_refused(end):
    with pytest.raises(InvalidSetting, match=r"progressive\.end: .*(after|before|expected)"):
        RECIPES.build("progressive", {"end": end})


def test_without_a_base_the_start_is_the_truncated_svd():
    """``drop_base`` under ``residual``: the nearest matrix of the rank."""
    model = compress_model(dense(), [rule("drop_base", "residual", "lora", 2)], ["6"])
    wrapped = model[6]
    delta = wrapped.lora_B["default"].weight @ wrapped.lora_A["default"].weight
    u, s, vh = torch.linalg.svd(dense()[6].weight, full_matrices=False)
    torch.testing.assert_close(delta, (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-4, atol=1e-5)


def test_nothing_is_left_without_an_adapter():
    with pytest.raises(InvalidSetting, match="leaves nothing without an adapter"):
        compress_model(dense(), [rule("drop_base")], ["*"])


def test_a_rank_that_saves_nothing_is_refused():
    # 45 x 12: m n / (m + n) = 9.47
    compress_model(dense(), [rule("drop_base", "zeros", "lora", 9)], ["6"])
    with pytest.raises(InvalidSetting, match=r"rank 10.*expected at most 9"):
        compress_model(dense(), [rule("drop_base", "zeros", "lora", 10)], ["6"])


def test_a_trial_says_so_too():
    plain = Trial(Choice("tiny"), (LayerRule((Choice("drop_base"),)),))
    with pytest.raises(InvalidSetting, match="leaves nothing"):
        build(TinyTask(), TinyTask().prepare(0), plain)


@pytest.mark.parametrize("init", ["zeros", "residual"])
def test_a_trial_goes_on_elsewhere_as_it_would_have(init):
    def finish(attempt):
        while not attempt.finished:
            attempt.advance((2,))
        return attempt

    task, asked = TinyTask(), trial(init=init)
    straight, shelf = Attempt(task, task.prepare(0), asked, Shelf()), Shelf()
    straight.advance((2,))
    saved = State.from_bytes(straight.state().to_bytes())
    finish(straight)
    again = Attempt(task, task.prepare(0), asked, shelf)
    again.restore(saved)
    finish(again)
    assert again.outcome.sha256 == straight.outcome.sha256
    assert [r.metrics for r in again.so_far.curve] == [r.metrics for r in straight.so_far.curve]


def test_another_base_does_not_fade_in_its_place():
    """A and B that were trained under one W are of no use under another."""
    saved = started().state()
    other = dense()
    with torch.no_grad():
        other[8].weight += 1
    with pytest.raises(ValueError, match="another delta"):
        started(Own(other)).restore(saved)

"""What is learnt from the dense model's features."""

import copy

import pytest
import torch
from fading import Head, images, moved, put, started, trial
from tiny_task import Shelf, TinyTask, dense, make_trial
from torch import nn

from compression.model import trainable
from compression.registry import InvalidSetting
from trainables import features
from trainables.attempt import Attempt
from trainables.build import build
from trainables.distillation import Seen, feature_names, feature_problems, watching
from trainables.frozen.recall import recalling
from trainables.recipes import RECIPES
from trainables.record import Choice
from trainables.stage import whole

LABELS = torch.zeros(48, dtype=torch.long)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("teacher", ["model", "layer"])
@pytest.mark.parametrize("share", [0.5, 1])
def test_distillation_alone_moves_both_factors(teacher, relative, share):
    run = put(moved(started(task_weight=0.0, teacher=teacher, relative=relative)), share)
    run.step_loss(images(), LABELS).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trainable(run.stage.model))


def test_nothing_is_learnt_where_the_blend_is_the_teacher():
    run = started(task_weight=0.0)
    assert run.step_loss(images(), LABELS).item() < 1e-10
    put(run, 0.5)
    assert run.step_loss(images(), LABELS).item() > 1e-3


def test_a_layer_at_the_cut_is_compared_in_the_same_forward():
    """What stands at the cut is what the dense model's layer gets too: the teacher is not run."""
    task = Head()
    data, asked = task.prepare(0), trial(init="residual")
    model = build(task, data, asked)
    stage = recalling(features.stage(task, data, model))
    run = moved(RECIPES.build("progressive").start(stage, task, asked))
    batch = stage.train.batch(torch.arange(20))

    def untouchable(inputs):
        raise AssertionError("the teacher was run")

    distillation = run.lesson.distillation
    reference = distillation.teacher(batch.inputs)
    distillation.teacher = untouchable
    put(run, 0.5)
    with run.changed(), distillation.watching() as seen:
        outputs = run.stage.forward(batch.inputs)
    expected = (outputs - reference).square().mean()
    torch.testing.assert_close(
        distillation.loss(batch.inputs, outputs, batch.labels, seen), expected
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("knob", [{"features": "6"}, {"teacher": "layer"}, {"relative": True}])
def test_knobs_of_the_teacher_mean_nothing_without_it(recipe, knob):
    with pytest.raises(InvalidSetting, match="no effect.*task_weight < 1"):
        RECIPES.build(recipe, {"task_weight": 1.0, **knob})


def recovering(method="rtn", **recipe):
    task = TinyTask()
    data = task.prepare(0)
    asked = make_trial(method, recipe=Choice("recover", recipe), epochs=8, lr=3e-3)
    stage = whole(task, build(task, data, asked), data)
    return RECIPES.build("recover", recipe).start(stage, task, asked)


def gap(run):
    """Mean squared error of all features, as the lesson has it."""
    distillation = run.lesson.distillation
    with torch.no_grad(), distillation.watching() as seen:
        outputs = run.stage.forward(images())
    return distillation.loss(images(), outputs, LABELS, seen).item()


@pytest.mark.parametrize("teacher", ["model", "layer"])
def test_recovery_by_features_alone_brings_them_nearer(teacher):
    run = recovering("int1", task_weight=0.0, teacher=teacher)
    before = gap(run)
    for _ in range(8):
        run.advance()
    assert gap(run) < 0.8 * before


def test_the_loss_is_the_mean_over_layers_and_outputs():
    run = recovering(task_weight=0.0)
    model, teacher, x = run.stage.model, dense(), images()
    gaps, student, target = [], x, x
    for index, layer in enumerate(teacher):
        student, target = model[index](student), layer(target)
        if str(index) in run.lesson.distillation.names:
            gaps.append((student - target).square().mean())
    gaps.append((student - target).square().mean())  # the outputs, beside the last layer
    torch.testing.assert_close(torch.tensor(gap(run)), torch.stack(gaps).mean())


def test_each_layer_alone_is_taught_on_what_it_was_given():
    run = recovering(task_weight=0.0, teacher="layer")
    model, teacher, x = run.stage.model, dense(), images()
    gaps = []
    for index, layer in enumerate(teacher):
        if str(index) in run.lesson.distillation.names:
            gaps.append((model[index](x) - layer(x)).square().mean())
        x = model[index](x)
    torch.testing.assert_close(torch.tensor(gap(run)), torch.stack(gaps).mean())


def test_relative_errors_do_not_depend_on_the_size_of_features():
    given, target = torch.randn(6, 4), torch.randn(6, 4)
    run = recovering(task_weight=0.5, relative=True)
    distillation = run.lesson.distillation
    one, other = (distillation._gap(s * given, s * target, []) for s in (1.0, 1000.0))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, (given - target).square().sum() / target.square().sum())


def test_padding_is_not_compared():
    distillation = recovering(task_weight=0.5).lesson.distillation
    student, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    found = distillation._gap(student, target, [mask])
    torch.testing.assert_close(found, (student[mask] - target[mask]).square().mean())
    spoilt = torch.where(mask[..., None], target, torch.tensor(1e9))
    torch.testing.assert_close(distillation._gap(student, spoilt, [mask]), found)


def test_features_are_named_by_patterns_in_model_order():
    run = recovering(task_weight=0.5, features="8,0")
    assert run.lesson.distillation.names == ("0", "8")
    assert feature_names(run.stage, "adapted") == ("0", "3", "6", "8")


def test_watching_leaves_no_hook_behind_and_the_teacher_as_it_was():
    run = recovering(task_weight=0.2)
    teacher = run.stage.dense
    before = copy.deepcopy(teacher.state_dict())
    run.advance()
    modules = [*run.stage.model.modules(), *teacher.modules()]
    assert not any(module._forward_hooks for module in modules)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    with pytest.raises(ZeroDivisionError), watching(teacher, {"6": lambda x, y: 1 / 0}):
        teacher(images())
    assert not any(module._forward_hooks for module in modules)


def test_what_is_watched_is_what_the_layer_gave_in_the_end():
    """A seer before may have changed it."""
    seen, model = Seen(), dense()
    with (
        watching(model, {"6": lambda given, output: output + 1}),
        watching(model, {"6": seen.of("6")}),
    ):
        outputs = model(images())
    hidden = model[:6](images())
    torch.testing.assert_close(seen.inputs["6"], hidden)
    torch.testing.assert_close(seen.outputs["6"], model[6](hidden) + 1)
    torch.testing.assert_close(outputs, model[7:](model[6](hidden) + 1))


def test_flat_features_have_no_padding():
    """Outputs (b, d) are not masked where there happen to be as many as tokens."""
    distillation = recovering(task_weight=0.5).lesson.distillation
    student, target = torch.randn(4, 7), torch.randn(4, 7)
    mask = torch.zeros(4, 7, dtype=torch.bool)
    expected = (student - target).square().mean()
    torch.testing.assert_close(distillation._gap(student, target, [mask]), expected)


def test_half_precision_does_not_overflow_and_nothing_is_no_error():
    distillation = recovering(task_weight=0.5, relative=True).lesson.distillation
    far = torch.full((2, 3), 300.0).half()
    assert distillation._gap(far, -far, []).isfinite()
    assert distillation._gap(torch.zeros(2, 3), torch.zeros(2, 3), []) == 0
    assert distillation._gap(torch.ones(2, 3), torch.zeros(2, 3), []) == 1


FEATURES = ["6", "1", "0,8", "*"]


@pytest.mark.parametrize("wanted", FEATURES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_named_features_are_the_same_with_and_without_a_cache(recipe, wanted):
    """Modules in front of what is trained are not run on a cache: then there is none."""
    method = "int1" if RECIPES[recipe].keeps_base else "drop_base"
    args = {"task_weight": 0.5, "features": wanted}

    def losses(cached):
        asked = make_trial(method, recipe=Choice(recipe, args), epochs=2)
        task = Head()
        attempt = Attempt(task, task.prepare(0), asked, Shelf(), cached=cached)
        while not attempt.finished:
            attempt.advance()
        assert attempt.outcome.error is None, attempt.outcome.error
        return [report.train_loss for report in attempt.outcome.curve[1:]]

    assert losses(True) == losses(False)


def test_a_feature_that_is_not_called_is_named():
    run = recovering(task_weight=0.5)
    seen = Seen(outputs={name: torch.zeros(1) for name in ("0", "3", "8")})
    with pytest.raises(InvalidSetting, match="features: '6': not called"):
        run.lesson.distillation.loss(images(), torch.zeros(1), LABELS, seen)


class Blocks(nn.Module):
    """A list of layers, and one that is called by keyword and gives several things."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        return {"hidden": self.norm(self.layers[0](x)), "more": None}


@pytest.mark.parametrize(
    ("wanted", "teacher", "message"),
    [
        ("layers", "model", "'layers' is a ModuleList, which puts nothing out"),
        ("norm", "layer", "'norm' is a LayerNorm; teacher layer takes Linear and Conv2d alone"),
        ("layer.0", "model", "'layer.0' matches no module"),
    ],
)
def test_features_that_say_nothing_are_refused(wanted, teacher, message):
    assert [text for text in feature_problems(Blocks(), wanted, teacher) if message in text]
    assert not list(feature_problems(Blocks(), "norm", "model"))


def test_of_several_outputs_the_first_tensor_is_seen():
    seen, model = Seen(), nn.Sequential(Blocks())
    with watching(model, {"0": seen.of("0")}):
        outputs = model(torch.randn(2, 3))
    assert seen.outputs["0"] is outputs["hidden"]


@pytest.mark.parametrize("rest", ["none", "cast"])
@pytest.mark.parametrize("init", ["zeros", "residual"])
def test_the_dense_model_gets_no_gradients(init, rest):
    task = TinyTask()
    data = task.prepare(0)
    recipe = Choice("progressive", {"task_weight": 0.5})
    asked = make_trial("drop_base", init=init, recipe=recipe, rest=Choice(rest), epochs=2)
    run = RECIPES.build("progressive").start(
        whole(task, build(task, data, asked), data), task, asked
    )
    run.advance()
    terms = [parameter for term in run.terms.values() for parameter in term.parameters()]
    assert all(p.grad is None for p in (*data.model.parameters(), *terms))

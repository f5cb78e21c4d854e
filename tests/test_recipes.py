"""The contract of every recipe."""

import itertools
import math

import pytest
import torch
from tiny_task import Poisoned, TinyTask, dense, frozen, make_trial

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.model import trainable
from trainables.build import build
from trainables.checkpoint import State
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS
from trainables.recipes import RECIPES, NonFiniteLoss
from trainables.record import Choice
from trainables.stage import whole


def method_for(recipe):
    """What a recipe can train."""
    return "int1" if RECIPES[recipe].keeps_base else "drop_base"


def adapters_of(recipe):
    """The adapters that it can train."""
    plugin, method = RECIPES.build(recipe), METHODS.build(method_for(recipe))
    names = ["lora", "dora"]
    return [n for n in names if not list(plugin.refusals(dense(), [method], [ADAPTERS.build(n)]))]


PAIRS = [(recipe, adapter) for recipe in RECIPES for adapter in adapters_of(recipe)]
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


def start(recipe, task=None, **settings):
    task = task or TinyTask()
    settings = {"method": method_for(recipe), **settings}
    trial = make_trial(recipe=Choice(recipe), **settings)
    data = task.prepare(0)
    stage = whole(task, build(task, data, trial), data)
    return RECIPES.build(recipe).start(stage, task, trial)


def advance(run, epochs):
    return [run.advance() for _ in range(epochs)]


def same_model(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(("recipe", "adapter"), PAIRS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_run_goes_on_bitwise(recipe, optimizer, adapter):
    settings = {"optimizer": optimizer, "adapter": adapter, "lr_schedule": Choice("cosine")}
    straight = start(recipe, **settings)
    advance(straight, 2)
    saved = straight.state().to_bytes()
    ahead = advance(straight, 2)

    resumed = start(recipe, **settings)
    resumed.restore(State.from_bytes(saved))
    assert advance(resumed, 2) == ahead
    assert same_model(resumed.stage.model, straight.stage.model)
    assert resumed.state().to_bytes() == straight.state().to_bytes()


@every_recipe
def test_a_run_can_be_taken_back(recipe):
    run = start(recipe, optimizer="muon")
    first = advance(run, 1)
    saved = State.from_bytes(run.state().to_bytes())
    ahead = advance(run, 3)
    run.restore(saved)
    assert advance(run, 3) == ahead
    assert [p.epochs_done for p in first + ahead] == [1, 2, 3, 4]


@pytest.mark.parametrize(("recipe", "adapter"), PAIRS)
def test_only_the_adapter_changes(recipe, adapter):
    run = start(recipe, adapter=adapter)
    before, adapters = (
        frozen(run.stage.model),
        [p.detach().clone() for p in trainable(run.stage.model)],
    )
    advance(run, 2)
    after = frozen(run.stage.model)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert not changed
    assert any(not torch.equal(p, old) for p, old in zip(trainable(run.stage.model), adapters))  # noqa: B905


@pytest.mark.parametrize(("recipe", "schedule"), itertools.product(RECIPES, LR_SCHEDULES))
def test_what_ships_gets_better(recipe, schedule):
    run = start(recipe, epochs=8, lr_schedule=Choice(schedule))
    before = shipped_loss(run)
    losses = [progress.train_loss for progress in advance(run, 8)]
    assert all(map(math.isfinite, losses))
    assert shipped_loss(run) < before
    if run.blended() is None:  # else what is trained is made harder as it goes
        assert losses[-1] < losses[0]


@torch.no_grad()
def shipped_loss(run):
    """The task's loss of the stage's own model over the training examples."""
    train = run.stage.train
    return run.task.loss(run.stage.forward(train.tensors), train.labels).item()


@every_recipe
def test_training_neither_reads_nor_moves_the_global_randomness(recipe):
    one, two = start(recipe), start(recipe)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    advance(one, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    advance(two, 2)
    assert same_model(one.stage.model, two.stage.model)


@every_recipe
def test_another_seed_trains_otherwise(recipe):
    one, two = start(recipe), start(recipe, seed=1)
    advance(one, 1)
    advance(two, 1)
    assert not same_model(one.stage.model, two.stage.model)


@every_recipe
def test_a_loss_that_is_not_finite_raises_and_names_the_step(recipe):
    run = start(recipe, Poisoned())
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    step = int((order == 40).nonzero()) // 32 + 1
    with pytest.raises(NonFiniteLoss, match=rf"nan at step {step} of epoch 1 \(adam, lr 0.01\)"):
        run.advance()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every_recipe
def test_a_training_that_diverges_raises(recipe, optimizer):
    run = start(recipe, optimizer=optimizer, lr=1e30, epochs=20)
    with pytest.raises(NonFiniteLoss, match=r"step \d+ of epoch \d+"):
        advance(run, 20)


@pytest.mark.parametrize("epochs", [1, 2, 12])
@every_recipe
def test_no_trial_is_protected_beyond_its_end(recipe, epochs):
    assert 0 <= RECIPES.build(recipe).min_fidelity(epochs) <= epochs

"""The contract of every hook, and what each of them is."""

import copy
import itertools
import math
from contextlib import contextmanager

import pytest
import torch
from networks import rule, taken
from tiny_task import Shelf, TinyTask, make_trial
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS, Adapter
from compression.artifact import deserialize
from compression.methods import METHODS
from compression.model import (
    adapter_tensors,
    as_saved,
    compress_model,
    compression_of,
    target_layers,
    trainable,
)
from compression.registry import InvalidSetting
from trainables import attempt as attempts
from trainables.attempt import Attempt
from trainables.build import build
from trainables.calibration import calibrated
from trainables.checkpoint import State, flatten, unflatten
from trainables.hooks import HOOKS, Scene
from trainables.hooks.base import period
from trainables.optimizers import OPTIMIZERS
from trainables.probes import probe, tensor_hash
from trainables.recipes import RECIPES
from trainables.record import Choice, Status
from trainables.stage import whole
from trainables.tasks import observe

BASES = [("lora", "int1"), ("dora", "none"), ("quantized_merge", "rtn"),
         ("quantized_merge", "magnitude"), ("lors", "magnitude")]  # fmt: skip
HOOK_NAMES = [name for name in HOOKS if name != "none"]


def takes(hook, adapter, method):
    """Whether a hook acts on an adapter over a method."""
    plugins = [METHODS.build(method)], [ADAPTERS.build(adapter)]
    return not list(HOOKS.build(hook).refusals(*plugins))


CASES = [(hook, *base) for hook in HOOK_NAMES for base in BASES if takes(hook, *base)]
PAIRS = [
    (pair, next(base for base in BASES if all(takes(hook, *base) for hook in pair)))
    for pair in itertools.permutations(HOOK_NAMES, 2)
]
every_case = pytest.mark.parametrize(("hook", "adapter", "method"), CASES)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Attempts step to milestones, however slow the machine is."""
    monkeypatch.setattr(attempts, "PATIENCE", 1e9)


def choices(*hooks):
    """Hooks by name, or with settings."""
    return tuple(h if isinstance(h, Choice) else Choice(h) for h in hooks)


def start(*hooks, adapter="quantized_merge", method="magnitude", **settings):
    task = TinyTask()
    trial = make_trial(method, adapter, hooks=choices(*hooks), **settings)
    data = task.prepare(0)
    stage = whole(task, build(task, data, trial), data)
    return RECIPES.build("recover").start(stage, task, trial)


def advance(run, epochs):
    return [run.advance() for _ in range(epochs)]


def same_model(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def restores(settings, *hooks, upto=2):
    straight = start(*hooks, **settings)
    advance(straight, upto)
    saved = straight.state().to_bytes()
    ahead = advance(straight, 4 - upto)
    assert all(math.isfinite(progress.train_loss) for progress in ahead)

    resumed = start(*hooks, **settings)
    resumed.restore(State.from_bytes(saved))
    assert advance(resumed, 4 - upto) == ahead
    assert same_model(resumed.stage.model, straight.stage.model)
    assert resumed.state().to_bytes() == straight.state().to_bytes()
    with resumed.shipping(), straight.shipping():
        assert same_model(resumed.stage.model, straight.stage.model)


def attempt(hooks, adapter, method, kind=Attempt, **settings):
    task = TinyTask()
    trial = make_trial(method, adapter, hooks=choices(*hooks), lr=0.03, **settings)
    return kind(task, calibrated(task.prepare(0), 24, 0), trial, Shelf())


def finish(one, milestones=()):
    while not one.finished:
        one.advance(milestones)
    assert one.outcome.status is Status.COMPLETED, one.outcome.error
    return one.outcome


def scored_as_stored(one):
    """What is on the shelf computes what was scored and probed, and is as long as was said."""
    outcome, task, validation = one.outcome, one.task, one.data.validation
    data = one.shelf.files[f"{one.trial_id}.safetensors"]
    assert len(data) == outcome.size.file_bytes
    assert outcome.curve[outcome.best_epoch].file_bytes in (None, len(data))
    model = deserialize(data, task.architecture())
    found = task.score(observe(task, model, validation), validation.labels)
    assert found == outcome.metrics["val"]
    assert tensor_hash(probe(model, validation)) == outcome.probe


# --- the contract ----------------------------------------------------------------------------


def test_every_hook_acts_on_something():
    assert {hook for hook, *_ in CASES} == set(HOOK_NAMES)


@every_case
def test_a_training_under_it_goes_on_bitwise(hook, adapter, method):
    restores({"adapter": adapter, "method": method, "lr_schedule": Choice("cosine")}, hook)


@pytest.mark.parametrize("upto", [1, 3])
@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_a_training_under_it_goes_on_from_anywhere(hook, upto):
    restores({}, hook, upto=upto)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o != "adam"])
@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_it_gets_on_with_every_optimizer(hook, optimizer):
    restores({"optimizer": optimizer, "lr": 1e-3}, hook)


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_a_training_under_it_can_be_taken_back(hook):
    run = start(hook)
    advance(run, 1)
    saved = State.from_bytes(run.state().to_bytes())
    ahead = advance(run, 3)
    run.restore(saved)
    assert advance(run, 3) == ahead


@every_case
def test_what_ships_is_what_was_scored(hook, adapter, method):
    one = attempt([hook], adapter, method)
    finish(one)
    scored_as_stored(one)


@pytest.mark.parametrize("milestone", [1, 2, 3])
@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_what_ships_of_a_trial_that_was_stopped_is_what_was_scored(hook, milestone):
    one = attempt([hook], "quantized_merge", "magnitude")
    one.advance(milestones=(milestone,))
    assert one.outcome.status is Status.STOPPED
    scored_as_stored(one)


class Copied(Attempt):
    """A trial that trains a copy of its model, as on a GPU."""

    def _begin(self):
        model = build(self.task, self.data, self.trial)
        with as_saved(model):
            self.so_far.size, self.so_far.macs = self._sizes(model)
        self.shipped, self.stage = self._staged(model), self._staged(copy.deepcopy(model))
        self.run = self.recipe.start(self.stage, self.task, self.trial)


@pytest.mark.parametrize("milestone", [2, 4])
@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_what_ships_of_a_copy_is_what_was_scored(hook, milestone):
    one = attempt([hook], "quantized_merge", "magnitude", kind=Copied)
    one.advance(milestones=(milestone,))
    scored_as_stored(one)


@every_case
def test_a_trial_goes_on_elsewhere(hook, adapter, method):
    straight, first, second = (attempt([hook], adapter, method) for _ in range(3))
    expected = finish(straight, milestones=(2,))
    first.advance(milestones=(2,))
    second.restore(State.from_bytes(first.state().to_bytes()))
    found = finish(second, milestones=(2,))
    assert found.sha256 == expected.sha256
    assert found.metrics == expected.metrics
    assert [r.metrics for r in found.curve] == [r.metrics for r in expected.curve]
    scored_as_stored(second)


@every_case
def test_between_steps_all_adapters_are_on_and_trained(hook, adapter, method):
    run, plain = (start(*h, adapter=adapter, method=method) for h in ([hook], []))
    advance(run, 1)
    model = run.stage.model
    assert len(trainable(model)) == len(trainable(plain.stage.model))
    assert not any(getattr(module, "_disable_adapters", False) for module in model.modules())
    shapes = [t.shape for t in adapter_tensors(model)]
    assert shapes == [t.shape for t in adapter_tensors(plain.stage.model)]


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_it_neither_reads_nor_moves_the_global_randomness(hook):
    one, two = start(hook), start(hook)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    advance(one, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    advance(two, 2)
    assert same_model(one.stage.model, two.stage.model)


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "base"), PAIRS)
def test_two_hooks_in_one_training_go_on_bitwise(pair, base):
    restores(dict(zip(("adapter", "method"), base, strict=True)), *pair, upto=1)


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "base"), PAIRS)
def test_of_two_hooks_in_one_trial_what_ships_was_scored(pair, base):
    one = attempt(pair, *base)
    finish(one)
    scored_as_stored(one)


def test_all_hooks_at_once():
    everything = next(b for b in BASES if all(takes(hook, *b) for hook in HOOK_NAMES))
    restores({}, *HOOK_NAMES)
    one = attempt(HOOK_NAMES, *everything)
    finish(one)
    scored_as_stored(one)


REFUSED = [(h, *b) for h in HOOK_NAMES for b in [*BASES, ("none", "none")] if not takes(h, *b)]


@pytest.mark.parametrize(("hook", "adapter", "method"), [r for r in REFUSED if r[1] != "none"])
def test_what_it_refuses_it_does_not_begin(hook, adapter, method):
    refused = list(HOOKS.build(hook).refusals([METHODS.build(method)], [ADAPTERS.build(adapter)]))
    assert all(adapter in text or method in text for text in refused)
    with pytest.raises(InvalidSetting, match=f"{hook}: .*use"):
        start(hook, adapter=adapter, method=method)


def test_periods_are_shares_of_the_training():
    def periods(every, steps):
        return [period(Moment(step, steps, 0.1), every) for step in range(steps)]

    assert periods(0.25, 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert periods(0.3, 10) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert periods(0.0, 3) == periods(1e-9, 3) == [0, 1, 2]
    assert periods(1.0, 3) == [0, 0, 0]


# --- a network of many layers, trained by hand -----------------------------------------------


def scene(adapter="lora", method="rtn", layers=40, seed=0, optimizer="adam", size=6, rank=2):
    """A training of a deep network that is about to begin."""
    torch.manual_seed(3)
    model = nn.Sequential(*(nn.Linear(size, size) for _ in range(layers)))
    compress_model(
        model, [rule(method, adapter=adapter, rank=rank)], ["*"],
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    params = trainable(model)
    return Scene(
        model,
        {n: e for n, e in compression_of(model).layers.items() if e.adapted},
        params,
        OPTIMIZERS.build(optimizer).build(params, 1e-2),
        seed,
    )


@contextmanager
def step(on, acting, moment):
    """One step on noise; the block lies before its backward pass."""
    acting.before_step(moment)
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(moment.step))
    loss = on.model(inputs).square().mean()
    yield
    on.optimizer.zero_grad()
    loss.backward()
    acting.after_backward(moment)
    on.optimizer.step()
    acting.after_step(moment)


def moments(steps):
    return [Moment(index, steps, 1e-2) for index in range(steps)]


def values(params):
    return [p.detach().clone() for p in params]


# --- coto ------------------------------------------------------------------------------------


def coto(**knobs):
    on = scene()
    return on, HOOKS.build("coto", knobs).start(on)


@pytest.mark.parametrize(("progress", "p"), [(0.15, 0.2), (0.375, 0.5), (0.6, 0.8)])
def test_coto_has_adapters_on_at_the_rate_of_the_ramp(progress, p):
    on, acting = coto(ramp=0.75)
    counts = torch.zeros(len(on.adapted))
    trials = 300
    for _ in range(trials):
        acting.before_step(Moment(round(progress * 1000), 1000, 0.1))
        counts += torch.tensor([not on.model[i]._disable_adapters for i in range(len(counts))])
    bound = 5 * math.sqrt(p * (1 - p) / trials)
    assert (counts / trials - p).abs().max() < bound  # of each layer
    assert abs(counts.mean().item() / trials - p) < bound / math.sqrt(len(counts))  # of all


def test_coto_leaves_one_on_where_all_would_be_off():
    on, acting = coto()
    for _ in range(20):
        acting.before_step(Moment(0, 1000, 0.1))
        assert sum(not layer._disable_adapters for layer in on.model) == 1


def test_coto_switches_whole_adapters_off():
    on, acting = coto()
    for parameter in on.params:  # else B is 0, and off is on
        nn.init.normal_(parameter)
    acting.before_step(Moment(1, 1000, 0.1))
    x = torch.randn(4, 6)
    for layer in on.model:
        assert torch.equal(layer(x), layer.base_layer(x)) == layer._disable_adapters
    acting.after_step(Moment(1, 1000, 0.1))
    assert not any(layer._disable_adapters for layer in on.model)


@pytest.mark.parametrize("ramp", [0.0, 0.25, 0.5])
def test_after_its_ramp_coto_is_the_plain_training(ramp):
    hook = Choice("coto", {"ramp": ramp})
    ramped, plain = start(hook, adapter="lora"), start(adapter="lora")
    advance(ramped, 2)
    plain.restore(flatten({**unflatten(ramped.state()), "acting": []}))
    assert advance(ramped, 2) == advance(plain, 2)
    assert same_model(ramped.stage.model, plain.stage.model)
    if not ramp:
        whole_plain = start(adapter="lora")
        advance(whole_plain, 4)
        assert same_model(ramped.stage.model, whole_plain.stage.model)


# --- lisa ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "muon", "schedule_free", "adafactor"])
@pytest.mark.parametrize("gamma", [1, 3, 100])
def test_lisa_moves_exactly_so_many_layers_in_a_period(gamma, optimizer):
    on = scene(layers=8, optimizer=optimizer)
    acting = HOOKS.build("lisa", {"layers": gamma, "every": 0.25}).start(on)
    trained, seen = on.trained(), []
    expected = min(gamma, 8)
    parts = getattr(on.optimizer, "parts", [on.optimizer])
    for moment in moments(16):
        before = {name: values(own) for name, own in trained.items()}
        with step(on, acting, moment):
            asked = {name for name, own in trained.items() if all(p.requires_grad for p in own)}
            some = {name for name, own in trained.items() if any(p.requires_grad for p in own)}
        assert asked == some
        assert len(asked) == expected
        moved = {
            name
            for name, own in trained.items()
            if not all(torch.equal(p, old) for p, old in zip(own, before[name], strict=True))
        }
        assert moved == asked
        kept = {id(p) for part in parts for p, state in part.state.items() if state}
        assert kept <= {id(p) for name in asked for p in trained[name]}
        seen.append(frozenset(asked))
    assert all(len(set(seen[i : i + 4])) == 1 for i in (0, 4, 8, 12))
    assert len(set(seen)) > 1 or gamma == 100


def test_lisa_comes_to_all_layers_in_time():
    on = scene(layers=8)
    acting = HOOKS.build("lisa", {"layers": 2, "every": 0.01}).start(on)
    counts = torch.zeros(8)
    for moment in moments(400):
        acting.before_step(moment)
        counts += torch.tensor([on.trained()[str(i)][0].requires_grad for i in range(8)])
        acting.after_step(moment)
    periods, p = 100, 2 / 8
    assert (counts / 4 / periods - p).abs().max() < 5 * math.sqrt(p * (1 - p) / periods)


def test_lisa_trains_what_belongs_to_no_layer_always():
    on = scene("lora", "drop_base", layers=4)  # the biases are trained, beside the adapters
    own = {id(p) for parameters in on.trained().values() for p in parameters}
    rest = [p for p in on.params if id(p) not in own]
    assert rest
    acting = HOOKS.build("lisa", {"layers": 1}).start(on)
    acting.before_step(Moment(0, 10, 0.1))
    assert all(p.requires_grad for p in rest)


# --- averages --------------------------------------------------------------------------------


def snapshots(hook, steps=12, adapter="lora"):
    """The acting, and the values of all parameters after each step."""
    on = scene(adapter, layers=3)
    acting, seen = hook.start(on), []
    for moment in moments(steps):
        with step(on, acting, moment):
            pass
        seen.append(values(on.params))
    return on, acting, seen


def shipped_values(on, acting):
    with acting.shipping():
        return values(on.params)


@pytest.mark.parametrize(("begin", "every", "taken"), [
    (0.5, 0.0, range(6, 12)), (0.0, 0.0, range(12)), (0.5, 0.25, (8, 11)),
    (0.75, 0.05, range(9, 12)),
])  # fmt: skip
def test_swa_ships_the_mean_of_the_snapshots(begin, every, taken):
    on, acting, seen = snapshots(HOOKS.build("swa", {"begin": begin, "every": every}))
    before = values(on.params)
    for index, mean in enumerate(shipped_values(on, acting)):
        expected = torch.stack([seen[step][index] for step in taken]).double().mean(0).float()
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(mean, before[index])
    assert all(torch.equal(p, old) for p, old in zip(on.params, before, strict=True))


def test_swa_ships_what_is_trained_before_its_first_snapshot():
    on, acting, seen = snapshots(HOOKS.build("swa", {"begin": 1.0}))
    assert all(map(torch.equal, shipped_values(on, acting), seen[-1]))


def test_ema_ships_the_weighted_mean_of_all_steps():
    span, steps = 0.25, 12
    on, acting, seen = snapshots(HOOKS.build("ema", {"span": span}), steps)
    decay = 1 - 1 / (span * steps)
    weights = torch.tensor([decay ** (steps - 1 - t) for t in range(steps)], dtype=torch.float64)
    for index, mean in enumerate(shipped_values(on, acting)):
        stacked = torch.stack([taken[index] for taken in seen]).double()
        expected = torch.tensordot(weights / weights.sum(), stacked, 1).float()
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-7)


def test_ema_of_a_short_span_is_what_is_trained():
    on, acting, seen = snapshots(HOOKS.build("ema", {"span": 0.0}))
    assert all(map(torch.equal, shipped_values(on, acting), seen[-1]))


@pytest.mark.parametrize("hook", ["swa", "ema"])
def test_averages_change_no_training(hook):
    averaged, plain = start(hook, adapter="lora"), start(adapter="lora")
    assert advance(averaged, 4) == advance(plain, 4)
    assert same_model(averaged.stage.model, plain.stage.model)
    with averaged.shipping():
        assert not same_model(averaged.stage.model, plain.stage.model)
    assert same_model(averaged.stage.model, plain.stage.model)


@pytest.mark.parametrize("hook", ["swa", "ema"])
def test_an_average_begins_anew_where_deltas_were_folded(hook):
    """The latent weight has them from then on: a mean with them would count them twice."""
    knobs = {"swa": {"begin": 0.0, "every": 0.0}, "ema": {}}[hook]
    on = scene("quantized_merge", layers=3)
    acting, restarts = HOOKS.build(hook, knobs).start(on), HOOKS.build("relora").start(on)
    for moment in moments(8):
        with step(on, acting, moment):
            pass
        restarts.after_step(moment)
        if moment.step in (1, 3, 5):  # folded just now
            assert all(map(torch.equal, shipped_values(on, acting), values(on.params)))
        if moment.step == 2:  # one step later
            torch.testing.assert_close(shipped_values(on, acting), values(on.params))


# --- relora ----------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["quantized_merge", "lors"])
def test_relora_merges_without_a_change_and_moves_by_more_than_its_rank(adapter):
    on = scene(adapter, "none", layers=1, rank=1)
    acting = HOOKS.build("relora", {"every": 0.25}).start(on)
    layer, x, folded = on.model[0], torch.randn(4, 6), 0
    first = layer.latent.clone()
    for moment in moments(16):
        with step(on, acting, moment):
            pass
        if moment.step in (3, 7, 11):
            folded += 1
            assert not layer.lora_B.any()
        assert layer.folds == folded
        rank = torch.linalg.matrix_rank((layer.exact() - first).detach().double(), rtol=1e-5)
        assert rank <= folded + 1
        if moment.step == 15:
            assert layer.lora_B.any()  # no merge at the end
            assert rank == 4
    with torch.no_grad():
        expected = layer(x)
        on.adapted["0"].adapter.fold(on.model, "0", torch.Generator().manual_seed(0))
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("method", ["rtn", "magnitude", "none"])
def test_relora_leaves_outputs_as_they_are(method):
    on = scene("quantized_merge", method, layers=3)
    acting, x = HOOKS.build("relora", {"every": 0.5}).start(on), torch.randn(4, 6)
    for moment in moments(4):
        with step(on, acting, moment):
            pass
        if moment.step == 0:
            with torch.no_grad():
                before, a = on.model(x), values([layer.lora_A for layer in on.model])
            acting.after_step(Moment(1, 4, 1e-2))
            with torch.no_grad():
                assert torch.equal(on.model(x), before)
            assert all(layer.folds == 1 for layer in on.model)
            drawn = [layer.lora_A for layer in on.model]
            assert not any(map(torch.equal, drawn, a))
            assert all(new.abs().max() <= 1 / math.sqrt(6) for new in drawn)


@pytest.mark.parametrize("prune", [0.0, 0.75, 1.0])
def test_relora_prunes_the_smallest_moments(prune):
    on = scene("quantized_merge", "none", layers=1)
    acting = HOOKS.build("relora", {"every": 0.5, "prune": prune}).start(on)
    with step(on, acting, Moment(0, 8, 1e-2)):
        pass
    with step(on, acting, Moment(1, 8, 1e-2)):
        pass
    a = on.model[0].lora_A
    before = on.optimizer.state[a]["exp_avg"].clone()
    acting.after_step(Moment(3, 8, 1e-2))
    if prune == 1:
        assert a not in on.optimizer.state
        return
    state = on.optimizer.state[a]
    assert state["step"].item() == 2
    after, gone = state["exp_avg"], round(prune * a.numel())
    assert (after == 0).sum() == gone
    assert torch.equal(after[after != 0], before[after != 0])
    if gone:
        assert before[after == 0].abs().max() <= before[after != 0].abs().min()


# --- gradual pruning -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "block_sparse", "n_m", "global_magnitude"])
def test_sparsity_grows_by_the_cubic_law_to_the_methods_own(method):
    on = scene("quantized_merge", method, layers=2, size=12)
    own = [layer.own.density((12, 12)) for layer in on.model]
    acting = HOOKS.build("gradual_pruning", {"begin": 0.25, "end": 0.75, "initial": 0.1}).start(on)
    steps, kept = 40, []
    for moment in moments(steps):
        kept.append([int(layer.kept) for layer in on.model])
        for layer, (final, of) in zip(on.model, own, strict=True):
            done = min(max(moment.progress - 0.25, 0) / 0.5, 1)
            low, high = min(0.1, 1 - final / of), 1 - final / of
            expected = (1 - (high + (low - high) * (1 - done) ** 3)) * of
            # n of m leaves one out at least
            assert abs(int(layer.kept) - min(expected, of - 1)) <= 0.5 + 1e-9
            assert layer.packed().method.density((12, 12)) == (int(layer.kept), of)
        assert acting.settled(moment) == (moment.progress >= 0.75)
        acting.after_step(moment)
    for before, after in itertools.pairwise(kept):
        assert all(b >= a for b, a in zip(before, after, strict=True))
    assert kept[-1] == [final for final, _ in own]
    assert [layer.packed().method for layer in on.model] == [layer.own for layer in on.model]


def test_gradual_pruning_reports_its_bytes_and_ends_at_the_methods_own():
    one = attempt(["gradual_pruning"], "quantized_merge", "magnitude", epochs=5)
    outcome = finish(one)
    plain = attempt([], "quantized_merge", "magnitude", epochs=5)
    finish(plain)
    lengths = [report.file_bytes for report in outcome.curve]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] == outcome.size.file_bytes == plain.outcome.size.file_bytes
    assert [report.settled for report in outcome.curve] == [False] * 4 + [True] * 2
    assert outcome.best_epoch >= 4


def test_entries_that_were_left_out_can_come_back():
    on = scene("quantized_merge", "magnitude", layers=1, size=12)
    layer = on.model[0]
    before = layer.packed().dense() != 0
    with torch.no_grad():
        layer.lora_A.fill_(1.0)
        layer.lora_B.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    after = layer.packed().dense() != 0
    assert (after & ~before).any()
    assert before.sum() == after.sum()


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(InvalidSetting, match="gradual_pruning: ends at 0.5, not after it begins"):
        HOOKS.build("gradual_pruning", {"begin": 0.5, "end": 0.5})


# --- grad_clip -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_gradients_keep_their_direction_and_are_no_longer_than_the_bound(size):
    on = scene(layers=3)
    acting = HOOKS.build("grad_clip", {"norm": 0.5}).start(on)
    for parameter in on.params:
        parameter.grad = torch.randn(parameter.shape) * size
    on.params[1].grad = None  # nothing to learn in this step
    before = torch.cat([p.grad.flatten() for p in on.params if p.grad is not None])
    acting.after_backward(Moment(0, 1, 0.1))
    after = torch.cat([p.grad.flatten() for p in on.params if p.grad is not None])
    torch.testing.assert_close(after, before * min(1.0, 0.5 / before.norm().item()))
    assert after.norm() <= 0.5 * (1 + 1e-5)


# --- with adapters that act of themselves ----------------------------------------------------


ACTIVE = [
    name
    for name in ADAPTERS
    if ADAPTERS[name].acting is not Adapter.acting
    and not ADAPTERS[name].needs
    and not ADAPTERS[name].merges
    and "conv2d" in ADAPTERS[name].kinds
]


@pytest.mark.slow
@pytest.mark.parametrize("hooks", [["swa", "grad_clip"], ["coto", "lisa"], ["lisa", "coto", "ema"]])
@pytest.mark.parametrize("adapter", ACTIVE)
def test_adapters_that_change_their_ranks_ship_what_was_scored(adapter, hooks):
    """Layers may have no live rank, and be all that a hook leaves to a step."""
    model = TinyTask().prepare(0).model
    method = taken(ADAPTERS.build(adapter), "int1", target_layers(model, ["*"]))
    one = attempt(hooks, adapter, method)
    finish(one)
    scored_as_stored(one)
    restores({"adapter": adapter, "method": method}, *hooks)

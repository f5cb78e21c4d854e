"""The frozen part of a model is run once; what comes out is what the whole model gives."""

import copy
import errno
import logging
import pickle

import pytest
import torch
from tiny_task import TinyTask, make_trial, split
from torch import nn

from compression.model import trainable
from compression.registry import FloatRange, Registry, knob
from trainables import features
from trainables.build import build
from trainables.frozen import block_cut, cuts, making
from trainables.frozen.cuts import near
from trainables.frozen.feature_split import FeatureSplit
from trainables.frozen.feature_store import Store
from trainables.recipes import RECIPES
from trainables.record import Fingerprint
from trainables.splits import TensorSplit
from trainables.stage import whole
from trainables.tasks.base import Prepared, Task, observe

TOLERANCE = 1e-5


class Deep(TinyTask):
    """Only the linear layers are compressed: the convolutions stay."""

    targets = ("6", "8")


class Distorting(Deep):
    def augment(self, inputs, generator):
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


class Views(TensorSplit):
    """Each example stands there three times, twice distorted."""

    views = 3


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", budget=1 << 30)


def trial_model(task, data, **kwargs):
    return build(task, data, make_trial(**kwargs))


@pytest.mark.parametrize("method", ["int1", "none"])
def test_logits_are_those_of_the_whole_model(store, method):
    task = Deep()
    data = task.prepare(0)
    model = trial_model(task, data, method=method)
    stage = features.stage(task, data, model, store)
    assert isinstance(stage.train, FeatureSplit)
    assert stage.reads == {"6": "cut0"}
    rows = torch.tensor([5, 0, 90, 5])
    expected = task.forward(model, data.train.inputs(rows))
    assert torch.allclose(stage.forward(stage.train.inputs(rows)), expected, atol=TOLERANCE)
    batch = stage.train.batch(rows)
    assert torch.equal(batch.labels, data.train.labels[rows])


def losses(stage, task, trial):
    run = RECIPES.build("recover").start(stage, task, trial)
    return torch.tensor([run.advance().train_loss for _ in range(7)])


def test_training_goes_the_same_way(store):
    """Three steps an epoch: 21 losses by their means, and what the adapters became."""
    task = Deep()
    data, trial = task.prepare(0), make_trial(epochs=7)
    ours, theirs = build(task, data, trial), build(task, data, trial)
    mine = losses(features.stage(task, data, ours, store), task, trial)
    expected = losses(whole(task, theirs, data), task, trial)
    assert torch.allclose(mine, expected, atol=TOLERANCE)
    for a, b in zip(trainable(ours), trainable(theirs), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_gradients_are_those_of_the_whole_model(store):
    task = Deep()
    data = task.prepare(0)
    model = trial_model(task, data, adapter="dora")
    stage, rows = features.stage(task, data, model, store), torch.arange(20)

    def gradients(forward, split_):
        batch = split_.batch(rows)
        model.zero_grad()
        task.loss(forward(batch.inputs), batch.labels).backward()
        return [p.grad.clone() for p in trainable(model)]

    mine = gradients(stage.forward, stage.train)
    full = whole(task, model, data)
    for a, b in zip(mine, gradients(full.forward, full.train), strict=True):
        assert torch.allclose(a, b, atol=TOLERANCE)


def test_trials_share_one_pass(store, caplog):
    task = Deep()
    data = task.prepare(0)
    caplog.set_level(logging.INFO, "paretune")
    for method in ("int1", "none", "svd"):
        features.stage(task, data, trial_model(task, data, method=method), store)
    assert len([r for r in caplog.records if "rows through" in r.message]) == 2  # train, validation


def test_what_rest_does_to_the_prefix_is_seen(store):
    task = Deep()
    data = task.prepare(0)
    from trainables.record import Choice

    plain = features.stage(task, data, trial_model(task, data), store)
    cast = build(task, data, make_trial(rest=Choice("cast", {"dtype": "bfloat16"})))
    stage = features.stage(task, data, cast, store)
    assert stage.train.key != plain.train.key
    rows = torch.arange(8)
    expected = cast(data.train.inputs(rows))
    assert torch.allclose(stage.forward(stage.train.inputs(rows)), expected, atol=TOLERANCE)


def test_the_dense_model_shares_the_features_of_its_targets(store):
    task = Deep()
    data = task.prepare(0)
    stage = features.stage(task, data, copy.deepcopy(data.model).requires_grad_(False), store)
    assert stage.train is data.train  # nobody trains
    changed = features.stage(task, data, trial_model(task, data), store)
    assert stage.validation.key == changed.validation.key
    mine = observe(task, stage.forward, stage.validation)
    full = observe(task, whole(task, data.model, data).forward, data.validation)
    assert torch.equal(mine["prediction"], full["prediction"])


def test_nothing_is_skipped_where_the_first_layer_changes(store):
    task = TinyTask()
    data = task.prepare(0)
    stage = features.stage(task, data, trial_model(task, data), store)
    assert "a changed layer comes first" in stage.note
    assert stage.train is data.train
    assert not stage.reads


def test_dropout_in_training_mode_is_named(store):
    task = Deep()
    data = task.prepare(0)
    data.model[2] = nn.Dropout(0.5).train()
    stage = features.stage(task, data, trial_model(task, data), store)
    assert "'2' (Dropout) is in training mode" in stage.note


def test_a_task_that_distorts_trains_the_whole_model(store):
    task = Distorting()
    data = task.prepare(0)
    model = trial_model(task, data)
    stage = features.stage(task, data, model, store)
    assert stage.train is data.train
    assert isinstance(stage.validation, FeatureSplit)
    assert "distorts" in stage.note
    assert not stage.reads
    inputs = data.train.inputs(torch.arange(4))
    assert torch.equal(stage.forward(inputs), model(inputs))


def test_views_are_cached_each(store):
    task = Distorting()
    data = task.prepare(0)
    images = data.train.tensors
    three = Views(torch.cat([images, images + 1, images - 1]), data.train.labels)
    object.__setattr__(data, "train", three)
    model = trial_model(task, data)
    stage = features.stage(task, data, model, store)
    assert stage.train.views == 3
    assert len(stage.train) == 96
    rows = torch.tensor([3, 96 + 3, 192 + 3])
    expected = model(three.inputs(rows))
    assert torch.allclose(stage.forward(stage.train.inputs(rows)), expected, atol=TOLERANCE)
    generator = torch.Generator().manual_seed(0)
    assert max(r.max() for r in stage.train.order(32, generator)) >= 96
    assert torch.equal(stage.train.batch(rows).labels, data.train.labels[torch.tensor([3, 3, 3])])


def test_a_budget_that_is_too_small_is_said_and_costs_nothing(tmp_path, caplog):
    task = Deep()
    data = task.prepare(0)
    store = Store(tmp_path, budget=1000)
    stage = features.stage(task, data, trial_model(task, data), store)
    assert stage.train is data.train
    assert "the budget is 0 MB" in stage.note
    assert "PARETUNE_CACHE_BYTES" in caplog.text
    assert store.used() == 0


def test_half_precision_on_disk(store):
    task = Deep()
    data = task.prepare(0)
    model = trial_model(task, data)
    stage = features.stage(task, data, model, store, dtype=torch.bfloat16)
    rows = torch.arange(10)
    expected = model(data.train.inputs(rows))
    got = stage.forward(stage.train.inputs(rows))
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, atol=0.05)


def test_a_split_of_features_is_small_to_send(store):
    task = Deep()
    data = task.prepare(0)
    stage = features.stage(task, data, trial_model(task, data), store)
    sent = pickle.loads(pickle.dumps(stage.validation))
    rows = torch.arange(5)
    assert torch.equal(sent.inputs(rows)["cut0"], stage.validation.inputs(rows)["cut0"])
    assert torch.equal(sent.labels, stage.validation.labels)


def test_prefetch_serves_the_trials(store, caplog):
    task = Deep()
    data = task.prepare(0)
    threads = torch.get_num_threads()
    assert "is computed once" in features.prefetch(task, data, ["6", "8"], store).note
    assert torch.get_num_threads() == threads
    caplog.clear()
    caplog.set_level(logging.INFO, "paretune")
    features.stage(task, data, trial_model(task, data), store)
    assert not caplog.records
    assert "a changed layer comes first" in features.prefetch(task, data, ["0"], store).note


def test_the_teachers_outputs_are_kept(store, caplog):
    task = Deep()
    data = task.prepare(0)
    logits = features.outputs(task, data.model, data.validation, store)
    expected = data.model(data.validation.tensors)
    assert torch.allclose(logits, expected, atol=TOLERANCE)
    caplog.clear()
    caplog.set_level(logging.INFO, "paretune")
    again = features.outputs(task, data.model, data.validation, store)
    assert torch.equal(again, logits)
    assert not caplog.records
    # A model that can't be divided has outputs all the same.
    plain = TinyTask()
    whole_model = features.outputs(plain, data.model, data.validation, store)
    assert torch.allclose(whole_model, expected, atol=TOLERANCE)


def test_features_of_any_split(store):
    task = Deep()
    data = task.prepare(0)
    model, test = trial_model(task, data), split(48, 3)
    forward, kept = features.features_of(task, data.model, model, test, store)
    assert isinstance(kept, FeatureSplit)
    rows = torch.arange(6)
    assert torch.allclose(forward(kept.inputs(rows)), model(test.inputs(rows)), atol=TOLERANCE)


def test_changed_weights_are_hashed_anew():
    tensor = torch.nn.Parameter(torch.zeros(3))
    before = cuts.tensor_hash(tensor)
    assert cuts.tensor_hash(torch.zeros(3)) == before
    with torch.no_grad():
        tensor[1] = 1.0
    assert cuts.tensor_hash(tensor) != before


# Keys, and what is held against the model beside them.


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x):
        return x + self.fc(x).tanh()


class Stack(nn.Module):
    """torch.fx cannot trace it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(64, 7)

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError("too bright")
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


SHIFTED = Registry("task", Task)


@SHIFTED.register("shifted")
class Shifted(TinyTask):
    """Its inputs are shifted."""

    targets = ("head",)
    shift: float = knob(0.0, FloatRange(0, 9))

    def architecture(self):
        return Stack()

    def prepare(self, seed):
        return Prepared(Stack().eval(), split(96, 1), split(48, 2), Fingerprint("w", "d"))

    def forward(self, model, inputs):
        return model(inputs + self.shift)


def shifted(shift, store):
    """A trial's stage, and the gap between its outputs and the whole model's."""
    task = Shifted(shift=shift)
    data = task.prepare(0)
    model = trial_model(task, data)
    stage = features.stage(task, data, model, store)
    rows = torch.arange(8)
    whole_model = task.forward(model, data.train.inputs(rows))
    return stage, (stage.forward(stage.train.inputs(rows)) - whole_model).abs().max()


def test_a_setting_of_the_task_makes_other_features(store, caplog):
    for shift in (0.0, 3.0):
        stage, gap = shifted(shift, store)
        assert isinstance(stage.train, FeatureSplit)
        assert gap < TOLERANCE
    assert "made anew" not in caplog.text


def test_features_that_the_model_does_not_give_are_made_anew(store, caplog, monkeypatch):
    monkeypatch.setattr(block_cut, "task_text", lambda task: "any")
    stage, _ = shifted(0.0, store)
    key = stage.train.key
    del stage
    stage, gap = shifted(3.0, store)
    assert stage.train.key == key
    assert gap < TOLERANCE
    assert caplog.text.count("not what the model gives now") == 2  # training and validation
    in_use, gap = shifted(0.0, store)
    assert "in use" in in_use.note
    assert gap < TOLERANCE


def test_found_features_are_looked_at_once(store, monkeypatch):
    task = Deep()
    features.stage(task, data := task.prepare(0), trial_model(task, data), store)
    again, looked = task.prepare(0), []
    monkeypatch.setattr(making, "near", lambda a, b: looked.append(len(a)) or near(a, b))
    for method in ("int1", "none", "rtn"):
        features.stage(task, again, trial_model(task, again, method=method), store)
    assert looked == [making.SAMPLE] * 2


def test_kept_outputs_are_held_against_the_model(store, caplog, monkeypatch):
    task = Deep()
    data = task.prepare(0)
    monkeypatch.setattr(features, "_key", lambda *parts: "same")
    monkeypatch.setattr(features, "features_of", lambda t, d, m, s, store: (m, s))
    features.outputs(task, data.model, data.validation, store)
    with torch.no_grad():
        data.model[8].bias += 1
    making._seen.clear()
    logits = features.outputs(task, data.model, data.validation, store)
    assert torch.allclose(logits, data.model(data.validation.tensors), atol=TOLERANCE)
    assert "not what the model gives now" in caplog.text


def test_a_teacher_in_training_mode_is_left_as_it_was(store):
    task = Deep()
    data = task.prepare(0)
    expected = data.model(data.validation.tensors)
    statistics = data.model[1].running_mean.clone()
    logits = features.outputs(task, data.model.train(), data.validation, store)
    assert torch.allclose(logits, expected, atol=TOLERANCE)
    assert torch.equal(data.model[1].running_mean, statistics)
    assert all(module.training for module in data.model.modules())


def test_an_error_of_the_data_is_not_told_as_one_of_the_cache(store):
    class Vanished(TensorSplit):
        def inputs(self, rows):
            if len(rows) > making.SAMPLE:
                raise PermissionError(errno.EACCES, "Permission denied", "photo.jpg")
            return super().inputs(rows)

    task = Deep()
    data = task.prepare(0)
    lost = Vanished(data.validation.tensors, data.validation.labels)
    object.__setattr__(data, "validation", lost)
    with pytest.raises(PermissionError, match=r"photo\.jpg"):
        features.prefetch(task, data, ["6", "8"], store)
    with pytest.raises(PermissionError, match=r"photo\.jpg"):
        features.stage(task, data, trial_model(task, data), store)
    assert store.used() == 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    task = Deep()
    data = task.prepare(0)
    model = trial_model(task, data)
    stage = features.stage(task, data, model, Store(tmp_path / "file" / "features"))
    assert stage.train is data.train
    assert "nothing is skipped: features were not cached" in stage.note

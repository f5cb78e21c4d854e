"""Adapters that are a sum of base and delta: what the delta is, and a base that fades."""

import pytest
import torch
from networks import adapted
from tiny_task import TinyTask, dense, make_trial

from compression.adapters import ADAPTERS
from compression.adapters.ranks.gated import GatedLayer
from compression.model import trainable
from trainables.build import build
from trainables.calibration import calibrated
from trainables.recipes import RECIPES
from trainables.record import Choice
from trainables.stage import whole

ADDITIVE = [name for name in ADAPTERS if ADAPTERS[name].additive]


@pytest.mark.parametrize("name", ADDITIVE)
def test_the_delta_is_what_an_additive_adapter_adds(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter, alpha=7.3)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter += 0.1 * torch.randn_like(parameter)
    for key in model.compression.layers:
        layer = model.get_submodule(key)
        if isinstance(layer, GatedLayer):
            layer.live[1] = 0
        base, delta = layer.base_layer, adapter.delta(model, key)
        x = torch.randn(3, *((16, 8, 8) if base.weight.ndim == 4 else base.weight.shape[1:]))
        x = x[:, : base.weight.shape[1]]
        assert delta.shape == base.weight.flatten(1).shape
        added = base.weight + delta.view_as(base.weight)
        expected = torch.func.functional_call(base, {"weight": added}, (x,))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("init", ["zeros", "residual"])
@pytest.mark.parametrize("name", ADDITIVE)
def test_a_base_fades_from_the_dense_model_under_any_additive_adapter(name, init):
    adapter = ADAPTERS.build(name)
    if init != "zeros" and not adapter.takes_delta:
        pytest.skip("starts at the base")
    task, recipe = TinyTask(), Choice("progressive")
    data = calibrated(task.prepare(0), 24, 0)
    asked = make_trial("drop_base", name, init=init, epochs=5, recipe=recipe)
    stage = whole(task, build(task, data, asked), data)
    run = RECIPES.build("progressive", {}).start(stage, task, asked)
    assert run.fade == 1
    images = data.validation.tensors
    torch.testing.assert_close(run.blended()(images), dense()(images), rtol=1e-5, atol=1e-5)
    moved = any(adapter.delta(stage.model, key).any() for key in stage.model.compression.layers)
    assert moved is (init != "zeros")

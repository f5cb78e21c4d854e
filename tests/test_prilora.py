"""What PRILoRA hears, and when; noise of PVeRA: nothing of a step outlasts it."""

import pytest
import torch
from networks import adapted, inputs
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart

LR = 1e-2


def started(**knobs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 6))
    adapter = ADAPTERS.build("prilora", {"beta": 0.0, "events": 2, **knobs})
    adapter.attach(model, {"0": AdapterStart(4, 4.0)})
    return model, adapter


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_on_the_layers_in_steps_alone_and_up_to_the_last_event():
    model, adapter = started(warmup=0.25, until=0.5)
    first = [adapter.acting(model, ["0"], seed=0) for _ in range(3)][0]
    assert hooks(model) == 0
    on = []
    for step in range(8):
        moment = Moment(step, 8, LR)
        first.before_step(moment)
        on.append(hooks(model))
        model(torch.randn(5, 64))
        first.after_backward(moment)
        first.after_step(moment)
        assert hooks(model) == 0
    assert on == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_step_that_overflows_is_not_heard():
    model, adapter = started()
    acting = adapter.acting(model, ["0"], seed=0)
    x, heard = torch.randn(5, 64), []
    for step, factor in enumerate((1.0, torch.inf)):
        acting.before_step(Moment(step, 9, LR))
        model(factor * x)
        if factor == 1:
            acting.after_backward(Moment(step, 9, LR))
        acting.after_step(Moment(step, 9, LR))
        heard.append(acting.norms["0"].clone())
    torch.testing.assert_close(heard[0], x.norm(dim=0))
    assert torch.equal(heard[0], heard[1])
    assert hooks(model) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_in_half_precision_are_summed_in_full(dtype):
    model, adapter = started()
    acting = adapter.acting(model, ["0"], seed=0)
    x = (300 * torch.randn(50_000, 64)).to(dtype)  # norms near 67,000 are not of float16
    acting.before_step(Moment(0, 9, LR))
    acting._hear("0", x)
    acting.after_backward(Moment(0, 9, LR))
    torch.testing.assert_close(acting.norms["0"], x.float().norm(dim=0))


def test_pveras_noise_ends_with_a_step_that_overflows():
    adapter = ADAPTERS.build("pvera")
    model = adapted(adapter)
    names = list(model.compression.layers)
    with torch.no_grad():
        for name in names:
            adapter.parameters(model, [name])[f"{name}.pvera_lambda_b"].normal_()
    acting, before = adapter.acting(model, names, seed=0), model(inputs())
    acting.before_step(Moment(0, 9, LR))
    assert not torch.equal(model(inputs()), before)
    acting.after_step(Moment(0, 9, LR))
    assert torch.equal(model(inputs()), before)

"""SingLoRA: one matrix, and a ramp that ends where it says."""

import pytest
import torch
from networks import adapted, inputs, rule, wide_network
from test_own_adapters import attached
from torch import nn

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.model import as_saved, compress_model
from compression.registry import InvalidSetting


def test_singlora_of_a_square_layer_is_symmetric_and_positive():
    _, model = attached("singlora", lambda: nn.Linear(8, 8, bias=False))
    delta = (model(torch.eye(8)) - bare(model[0])(torch.eye(8))).T
    torch.testing.assert_close(delta, delta.T)
    assert torch.linalg.eigvalsh(delta).min() >= -1e-5
    assert delta.norm() > 0.01


@pytest.mark.parametrize("steps", [100, 300])
@pytest.mark.parametrize("ramp", [0.07, 0.14, 0.29, 0.55])
def test_singloras_ramp_has_ended_where_it_says(ramp, steps):
    adapter, model = attached("singlora", ramp=ramp)
    acting = adapter.acting(model, ["0"], seed=0)
    for step in range(steps):
        moment = Moment(step, steps, 0.1)
        acting.before_step(moment)
        ended = moment.progress >= adapter.settled_at
        assert acting.settled(moment) is ended
        assert (model[0].u == 1) == ended


def test_singlora_ramps_up_from_exactly_the_base_and_stores_u_in_a():
    adapter = ADAPTERS.build("singlora", {"ramp": 0.5})
    model = adapted(adapter)
    names = list(model.compression.layers)
    base = compress_model(wide_network(), [rule("rtn")], ["*"])
    assert torch.equal(model(inputs()), base(inputs()))
    acting = adapter.acting(model, names, seed=0)
    seen, settled = [], []
    for step in range(8):
        acting.before_step(Moment(step, 8, 0.1))
        seen.append(float(model[0].u))
        settled.append(acting.settled(Moment(step, 8, 0.1)))
        acting.after_step(Moment(step, 8, 0.1))
    assert seen == [min(step / 4, 1.0) for step in range(8)]
    assert settled == [step >= 4 for step in range(8)]
    acting.before_step(Moment(2, 8, 0.1))
    with pytest.raises(InvalidSetting, match="finalize"):
        serialize(model)
    before = model(inputs())
    with as_saved(model):
        torch.testing.assert_close(model(inputs()), before)
        again = deserialize(serialize(model), wide_network(seed=3))
    torch.testing.assert_close(again(inputs()), before)
    assert float(model[0].u) == 0.5

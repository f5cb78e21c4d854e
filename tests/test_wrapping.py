"""What the rest of a model sees of a layer that carries an adapter."""

import pytest
import torch
from networks import adapted, inputs
from torch import nn

from compression.adapters import ADAPTERS, AdapterStart
from compression.kinds import bare

REAL = [name for name in ADAPTERS if name != "none"]


@pytest.mark.parametrize("name", REAL)
def test_every_adapted_layer_has_weight_bias_mode_and_a_switch(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    for layer in map(model.get_submodule, model.compression.layers):
        base = bare(layer)
        assert layer.weight.dtype is base.weight.dtype
        assert layer.weight.shape == base.weight.shape
        assert layer.bias is base.bias
        assert layer._disable_adapters is False
        assert layer.training is base.training


@pytest.mark.parametrize("name", ["sora", "lors", "quantized_merge", "ln_tuning", "moslora"])
@pytest.mark.parametrize("train", [True, False])
def test_a_wrapper_is_in_the_mode_of_its_layer(name, train):
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)).train(train)
    start = AdapterStart(2, 2.0, dense=model[0].weight.detach())
    ADAPTERS.build(name).attach(model, {"0": start})
    assert model[0] is not bare(model[0])
    assert model[0].training is bare(model[0]).training is train


@pytest.mark.parametrize("name", ["sora", "lors", "ln_tuning", "moslora"])
def test_transformers_asks_a_layer_for_the_dtype_of_its_weight(name):
    transformers = pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5DenseActDense

    block = T5DenseActDense(transformers.T5Config(d_model=16, d_ff=8)).eval()
    model, x = nn.Sequential(block, nn.LayerNorm(16)), torch.randn(3, 16)
    expected = model(x)
    adapter = ADAPTERS.build(name)
    torch.manual_seed(0)
    adapter.attach(model, {"0.wo": AdapterStart(2, 2.0)})
    assert block.wo is not bare(block.wo)
    torch.testing.assert_close(model(x), expected)


def test_the_weight_is_the_one_that_is_there_now():
    model = adapted(ADAPTERS.build("sora"))
    layer = model[5]
    model.half()
    assert layer.weight.dtype is torch.float16
    with pytest.raises(AttributeError):
        _ = layer.nothing_of_the_kind
    assert inputs().dtype is torch.float32

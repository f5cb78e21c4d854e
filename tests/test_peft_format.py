"""Adapters of compressed models, opened by plain PEFT over the decoded model."""

import json
import warnings

import pytest
import torch
from networks import adapted, inputs, network, rule, wide_network
from safetensors.torch import load_file
from torch import nn

from compression.adapters import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.kinds import bare
from compression.layers import packed_of
from compression.model import as_saved, compress_model, trainable
from compression.peft_format import decoded, write_peft
from compression.registry import InvalidSetting

BRIDGED = [name for name in ADAPTERS if issubclass(ADAPTERS[name], Bridged)]
# What PEFT rebuilds from its own seed, or makes otherwise, and what its refusal must name.
NO_FORM = {
    "fourierft": "indices",
    "waveft": "waveft_indices",
    "boft": "boft_R",
    "psoft float16": "_psoft_A_cache",  # PEFT takes the SVD again, and does not round it
}


def shaken(model):
    """Trained values somewhere else than where they started."""
    made = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(torch.randn(parameter.shape, generator=made) * 0.1)
    return model


def opened(model, folder):
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(decoded(model), folder).eval()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", BRIDGED)
def test_plain_peft_computes_the_same_or_the_reason_is_named(name, dtype, tmp_path):
    model = shaken(adapted(ADAPTERS.build(name, {"dtype": dtype}), "int1"))
    reason = NO_FORM.get(name) or NO_FORM.get(f"{name} {dtype}")
    if reason:
        with pytest.raises(InvalidSetting, match=reason):
            write_peft(model, str(tmp_path / "it"))
        assert not (tmp_path / "it").exists()
        return
    write_peft(model, str(tmp_path))
    with as_saved(model):
        expected = model(inputs())
    found = opened(model, tmp_path)(inputs())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, decoded(model)(inputs()), rtol=1e-3, atol=1e-3)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_one_butterfly_factor_has_a_form_everywhere(tmp_path):
    model = shaken(adapted(ADAPTERS.build("boft", {"factors": 1}), "int1"))
    write_peft(model, str(tmp_path))
    found = opened(model, tmp_path)(inputs())
    torch.testing.assert_close(found, model(inputs()), rtol=1e-5, atol=1e-5)


def test_seeded_bases_are_in_the_file(tmp_path):
    model = adapted(ADAPTERS.build("vera", {"seed": 5}))
    write_peft(model, str(tmp_path))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    found = [value for key, value in stored.items() if key.endswith("vera_A")]
    assert found
    live = model.get_submodule("5").vera_A["default"]
    assert all(torch.equal(value, live) for value in found)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["save_projection"]


def test_the_decoded_model_is_the_base_alone():
    base = compress_model(network(), [rule("int1")], ["*"])
    model = shaken(compress_model(network(), [rule("int1", adapter="lora", rank=2)], ["*"]))
    before = model(inputs())
    dense = decoded(model)
    assert torch.equal(dense(inputs()), base(inputs()))
    assert torch.equal(model(inputs()), before)
    assert dense.state_dict().keys() == network().state_dict().keys()
    assert not any(packed_of(module) for module in dense.modules())
    assert isinstance(bare(dense[0]).weight, nn.Parameter)


def test_a_layer_without_a_base_decodes_to_zeros(tmp_path):
    rules = [rule("drop_base", "pissa", "lora", 2, pattern="8")]
    model = shaken(compress_model(network(), rules, ["8"]))
    assert not decoded(model)[8].weight.any()
    write_peft(model, str(tmp_path))
    torch.testing.assert_close(opened(model, tmp_path)(inputs()), model(inputs()))


def test_layers_of_several_ranks_keep_them(tmp_path):
    rules = [rule("rtn", "zeros", "lora", 7, alpha=14.0)]
    model = shaken(compress_model(network(), rules, ["*"]))
    assert {entry.rank for entry in model.compression.layers.values()} == {5, 6, 7}
    write_peft(model, str(tmp_path))
    torch.testing.assert_close(opened(model, tmp_path)(inputs()), model(inputs()))


def test_names_that_end_alike_are_told_apart(tmp_path):
    inner = nn.ModuleDict({"fc": nn.Linear(8, 8)})
    model = nn.ModuleDict({"fc": nn.Linear(8, 8), "block": inner})
    compress_model(model, [rule("rtn", adapter="lora", rank=2, pattern="fc")], ["fc"])
    write_peft(shaken(model), str(tmp_path))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert not any("block" in key for key in stored)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([rule("rtn")], "none"),
        ([rule("rtn", adapter="sora", rank=2)], "sora is not one of PEFT's"),
        (
            [
                rule("rtn", adapter="lora", rank=2, pattern="5"),
                rule("rtn", adapter="ia3", pattern="8"),
            ],
            "one adapter for all layers; here: ia3, lora",
        ),
        (
            [
                rule("rtn", adapter="vera", rank=2, pattern="5"),
                rule("rtn", adapter="vera", rank=4, pattern="8"),
            ],
            "one rank for all layers; here 5: 2, 8: 4",
        ),
    ],
)
def test_what_has_no_form_is_refused_with_the_reason(rules, reason, tmp_path):
    model = compress_model(wide_network(), rules, ["5", "8"])
    with pytest.raises(InvalidSetting, match=reason):
        write_peft(model, str(tmp_path / "it"))
    assert not (tmp_path / "it").exists()


def test_what_plain_peft_computes_otherwise_is_refused(tmp_path):
    # Our DoRA has a floor under the norms of rows; PEFT's divides by 0.
    model = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[1:3] = 0
    compress_model(model, [rule("none", "zeros", "dora", 2)], ["*"])
    with pytest.raises(InvalidSetting, match="computes something else at '0'"):
        write_peft(model, str(tmp_path))

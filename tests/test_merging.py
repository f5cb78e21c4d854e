"""Merging adapters, and the two that end inside the packed weight."""

import copy
import math

import pytest
import torch
from networks import (
    SINGLE,
    adapted,
    calibration,
    generator,
    inputs,
    layer_stats,
    rule,
    wide_network,
)
from torch import nn
from torch.nn import functional as F

from compression.adapters import ADAPTERS
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.layers import packed_of
from compression.merging import merge
from compression.methods import METHODS, Chain, Method
from compression.methods.base import Slot
from compression.model import as_saved, compress_model, finalize, trainable
from compression.registry import InvalidSetting
from compression.size import macs, measure, positions

TARGETS = ["*"]
MERGING = [name for name in ADAPTERS if ADAPTERS[name].merges]
ADDITIVE = [name for name in ADAPTERS if ADAPTERS[name].additive]
STATELESS = [
    name
    for name in SINGLE
    if not list(ADAPTERS.build("quantized_merge").refusals({}, 2, [METHODS.build(name)]))
]
DENSITIES = [name for name in STATELESS if METHODS.build(name).density((12, 20))]
SPARSE = [name for name in SINGLE if METHODS[name].refills and name not in ("none", "dlp")]


def steps(model, count=3, lr=1e-2):
    """Some steps towards labels."""
    optimizer = torch.optim.Adam(trainable(model), lr=lr)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs()), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    return model


def one_layer(adapter, method, rank=3, **more):
    """A compressed and adapted layer of 12 x 20, and the dense weight it had."""
    built = METHODS.build(method) if isinstance(method, str) else method
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12) if "linear" in built.kinds else nn.Conv2d(5, 12, 2))
    weight = model[0].weight.detach().clone()
    made = rule(built, adapter=adapter, rank=rank, **more)
    compress_model(model, [made], TARGETS, generator=generator())
    return model, weight


def disturb(model, size=0.3):
    """Somewhere else than at the start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(torch.randn(parameter.shape) * size)
    return model


def weight_of(layer):
    """What an adapted layer multiplies by."""
    with torch.no_grad():
        return layer._weight()


# --- merge -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ADDITIVE, *MERGING])
def test_a_merged_model_computes_the_same_and_has_no_adapter(name):
    model = finalize(steps(adapted(ADAPTERS.build(name), "none")))
    expected = model(inputs()).detach()
    merged = merge(model)
    torch.testing.assert_close(merged(inputs()), expected, rtol=1e-4, atol=1e-5)
    assert not merged.compression.adapted()
    assert {type(m) for m in merged.modules()} == {type(m) for m in wide_network().modules()}
    assert not trainable(merged)


@pytest.mark.parametrize("name", [*ADDITIVE, *MERGING])
def test_a_merged_model_has_the_dense_file_length_and_comes_back(name):
    merged = merge(steps(adapted(ADAPTERS.build(name), "none")))
    data = serialize(merged)
    assert sum(measure(merged, TARGETS).model.values()) == len(data)
    assert len(data) == len(serialize(wide_network()))
    again = deserialize(data, wide_network(seed=9))
    assert torch.equal(again(inputs()), merged(inputs()))
    assert serialize(again) == data


@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, (3, 2), padding="same"),
    nn.Conv2d(4, 6, 2, stride=(3, 1), padding=(0, 1), bias=False), nn.Linear(20, 12),
])  # fmt: skip
def test_convolutions_merge_whatever_their_geometry(layer):
    model = nn.Sequential(copy.deepcopy(layer))
    compress_model(model, [rule(adapter="lora", rank=3)], TARGETS, generator=generator())
    disturb(model)
    x = torch.randn((5, 20) if isinstance(layer, nn.Linear) else (2, 4, 9, 11))
    expected = model(x).detach()
    torch.testing.assert_close(merge(model)(x), expected, rtol=1e-4, atol=1e-5)


def test_merging_lora_adds_its_scaled_product():
    model, weight = one_layer("lora", "none", alpha=9.0)
    disturb(model)
    [pair] = ADAPTERS.build("lora").pairs(model, ["0"])
    expected = weight + 3.0 * pair.B.detach() @ pair.A.detach()
    torch.testing.assert_close(merge(model)[0].weight.detach(), expected)


def test_the_dense_model_is_not_written():
    """Layers that were left as they were share their tensors with it."""
    dense = wide_network()
    before = copy.deepcopy(dense.state_dict())
    shared = {id(tensor): tensor for tensor in [*dense.parameters(), *dense.buffers()]}
    for name in (*MERGING, "lora"):
        model = copy.deepcopy(dense, dict(shared))
        merge(steps(adapted(ADAPTERS.build(name), "none", model=model)))
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


@pytest.mark.parametrize(("method", "reason"), [
    ("rtn", "grid.*quantized_merge"), ("int1", "grid.*quantized_merge"),
    ("block_sparse", "zeros.*lors or quantized_merge"), ("svd", "dense matrix.*quantized_merge"),
    ("gptq", "grid.*keep the adapter"), ("wanda", "zeros.*lors"),
    ("cast", "grid.*keep the adapter"), ("drop_base", "keeps no weight.*keep the adapter"),
])  # fmt: skip
def test_what_would_not_survive_is_refused_with_what_to_use(method, reason):
    init = "zeros"
    model = adapted(ADAPTERS.build("lora"), method, init)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InvalidSetting, match=rf"(?s)'5': adapter lora .*{method}: .*{reason}"):
        merge(model)
    assert model.compression.adapted()
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


class OwnTable(Method):
    """A method of somebody's own, in a module of no folder."""

    name = "own_table"

    def encode(self, weight, stats):
        return self, {"values": weight.flatten().clone()}

    def decode(self, tensors, shape):
        return tensors["values"].view(shape)

    def layout(self, shape):
        return {"values": Slot(torch.float32, (math.prod(shape),), "base")}

    def nominal_bits(self, shape):
        return 32 * math.prod(shape)


class OwnGrid(OwnTable):
    """The same, rounded."""

    name = "own_grid"

    def encode(self, weight, stats):
        return self, {"values": weight.flatten().round()}

    def nominal_bits(self, shape):
        return 8 * math.prod(shape)


@pytest.mark.parametrize(("method", "reason"), [
    (OwnTable(), "its form cannot hold the sum"), (OwnGrid(), "the sum leaves its grid"),
])  # fmt: skip
def test_a_method_of_ones_own_is_told_what_would_become_of_it(method, reason, monkeypatch):
    monkeypatch.setattr(type(method), "__module__", "alone")
    model, _ = one_layer("lora", method)
    with pytest.raises(InvalidSetting, match=f"cannot be merged into {method.name}: {reason};"):
        merge(model)


def test_every_layer_that_cannot_merge_is_named():
    model = wide_network()
    rules = [rule("rtn", adapter="lora", rank=2, pattern="5"),
             rule("none", adapter="dora", rank=2, pattern="8"),
             rule("none", adapter="lora", rank=2, pattern="10")]  # fmt: skip
    compress_model(model, rules, ["5", "8", "10"])
    with pytest.raises(InvalidSetting) as caught:
        merge(model)
    assert [error.split(":")[0] for error in caught.value.errors] == ["'5'", "'8'"]


@pytest.mark.parametrize("rest", ["none", "cast"])
def test_a_merged_packed_model_is_that_of_its_file(rest):
    model = wide_network()
    compress_model(
        model,
        [rule("rtn", adapter="quantized_merge", rank=3, pattern="5"),
         rule("magnitude", adapter="lors", rank=3, pattern="8"),
         rule("none", adapter="lors", rank=3, pattern="10")],
        ["5", "8", "10"], generator=generator(), rest=METHODS.build(rest),
    )  # fmt: skip
    with as_saved(steps(model)):
        data, expected = serialize(model), model(inputs())
    assert torch.equal(deserialize(data, wide_network(seed=9))(inputs()), expected)
    merged = merge(model)
    assert torch.equal(merged(inputs()), expected)
    assert serialize(merged) == data


# --- quantized_merge -------------------------------------------------------------------------


@pytest.mark.parametrize("method", STATELESS)
def test_it_starts_at_the_compressed_weight_exactly(method):
    model, weight = one_layer("quantized_merge", method)
    expected = METHODS.build(method).compress(weight).dense()
    assert torch.equal(weight_of(model[0]), expected)
    assert torch.equal(bare(model[0]).weight, expected)


@pytest.mark.parametrize("method", STATELESS)
def test_what_is_trained_is_what_the_method_makes_of_the_sum(method):
    model, weight = one_layer("quantized_merge", method, alpha=6.0)
    resolved = model.compression.layers["0"].method
    disturb(model)
    a, b = model[0].lora_A.detach(), model[0].lora_B.detach()
    expected = resolved.compress(weight + (2.0 * b @ a).view_as(weight)).dense()
    assert torch.equal(model[0]._weight().detach(), expected)  # with gradients
    assert torch.equal(weight_of(model[0]), expected)
    merged = merge(model)
    assert torch.equal(merged[0].weight, expected)
    # On the grid: compressed again, nothing of it changes.
    if packed := packed_of(merged[0]):
        assert torch.equal(packed.dense(), expected)
        assert packed.method.name == resolved.name


@pytest.mark.parametrize("method", ["rtn", "int1", "n_m", "svd", "none"])
def test_gradients_pass_straight_through(method):
    model, _ = one_layer("quantized_merge", method, alpha=6.0)
    disturb(model)
    x, g = torch.randn(7, 20), torch.randn(7, 12)
    (model(x) * g).sum().backward()
    full, layer = g.T @ x, model[0]
    torch.testing.assert_close(layer.lora_B.grad, 2.0 * full @ layer.lora_A.detach().T)
    torch.testing.assert_close(layer.lora_A.grad, 2.0 * layer.lora_B.detach().T @ full)


def test_bytes_do_not_depend_on_the_rank():
    sizes = {len(serialize(one_layer("quantized_merge", "rtn", rank=r)[0])) for r in (1, 4, 12)}
    plain, _ = one_layer("none", "rtn", rank=0)
    assert sizes == {len(serialize(plain))}


@pytest.mark.parametrize(("adapter", "method", "reason"), [
    ("quantized_merge", "gptq", "calibrated"), ("quantized_merge", "wanda", "calibrated"),
    ("quantized_merge", "dlp", "calibrated"), ("quantized_merge", "drop_base", "no weight"),
    ("lors", "rtn", "no zeros"), ("lors", "svd", "no zeros"), ("lors", "drop_base", "no weight"),
])  # fmt: skip
def test_methods_it_cannot_sit_on_are_refused_by_name(adapter, method, reason):
    [refused] = ADAPTERS.build(adapter).refusals({}, 2, [METHODS.build(method)])
    assert refused.startswith(f"{adapter} cannot sit on method {method}")
    assert reason in refused


def test_a_slot_that_comes_and_goes_is_stored_as_it_ships():
    """``sign`` has a slot of zeros where W has zeros; with a delta there are none."""
    model = nn.Sequential(nn.Linear(20, 12))
    with torch.no_grad():
        model[0].weight[:, ::3] = 0
    compress_model(model, [rule("sign", adapter="quantized_merge", rank=3)], TARGETS)
    assert "zeros" in packed_of(model[0]).state()
    disturb(model)
    data = serialize(model)
    again = deserialize(data, nn.Sequential(nn.Linear(20, 12)))
    assert "zeros" not in packed_of(again[0]).state()
    x = torch.randn(3, 20)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_bytes_that_depend_on_the_values_are_counted_as_they_change():
    for method, depends in [("sign", True), ("rtn", False), ("magnitude", False)]:
        model, _ = one_layer("quantized_merge", method)
        [(adapter, entries)] = model.compression.adapted().items()
        acting = adapter.acting(model, list(entries), seed=0)
        assert (acting is not None and acting.resizes) == depends


# --- lors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", SPARSE)
def test_zeros_stay_zero_and_values_are_those_of_the_sum(method, dtype):
    adapter = ADAPTERS.build("lors")
    built = METHODS.build(method, {"value_dtype": dtype})
    model = adapted(adapter, built, "zeros")
    bases = {name: bare(model.get_submodule(name)).weight.clone() for name in ("0", "5", "8", "10")}
    disturb(model)
    for name, base in bases.items():
        layer = model.get_submodule(name)
        a, b = layer.lora_A.detach(), layer.lora_B.detach()
        delta = (layer.scale * b @ a).view_as(base)
        exact = torch.where(base != 0, base + delta, base)
        stored = exact.to(getattr(torch, dtype)).float()
        assert torch.equal(layer._weight().detach(), stored)
        assert torch.equal(layer.packed().dense(), stored)
        assert torch.equal(layer.packed().state()["indices"], packed_of(layer).state()["indices"])


def test_the_gradient_is_the_masked_one():
    model, _ = one_layer("lors", "magnitude", alpha=6.0)
    disturb(model)
    x, g = torch.randn(7, 20), torch.randn(7, 12)
    (model(x) * g).sum().backward()
    layer = model[0]
    masked = (g.T @ x) * (bare(layer).weight != 0)
    torch.testing.assert_close(layer.lora_B.grad, 2.0 * masked @ layer.lora_A.detach().T)
    torch.testing.assert_close(layer.lora_A.grad, 2.0 * layer.lora_B.detach().T @ masked)


def test_values_are_packed_again_in_a_chain():
    chain = Chain(METHODS.build("magnitude"), {"": METHODS.build("rtn", {"bits": 8})})
    model, _ = one_layer("lors", chain)
    base = bare(model[0]).weight.clone()
    disturb(model)
    weight = model[0].packed().dense()
    assert not torch.equal(weight, base)
    assert (weight[base == 0] == 0).all()
    data = serialize(model)
    again = deserialize(data, nn.Sequential(nn.Linear(20, 12)))
    assert torch.equal(again[0].weight, weight)
    assert len(data) == len(serialize(one_layer("none", chain, rank=0)[0]))


# --- both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", MERGING)
def test_switched_off_it_is_the_base(adapter):
    model, _ = one_layer(adapter, "magnitude")
    base, x = bare(model[0]), torch.randn(5, 20)
    disturb(model)
    model[0]._disable_adapters = True
    assert torch.equal(model(x), F.linear(x, base.weight, base.bias))
    assert not model(x).requires_grad


@pytest.mark.parametrize("adapter", MERGING)
def test_a_fold_changes_no_output_and_starts_anew(adapter):
    model, _ = one_layer(adapter, "magnitude")
    disturb(model)
    x, before = torch.randn(5, 20), model[0].lora_A.detach().clone()
    with torch.no_grad():
        expected = model(x)
        ADAPTERS.build(adapter).fold(model, "0", generator())
        assert torch.equal(model(x), expected)
    assert not model[0].lora_B.any()
    assert not torch.equal(model[0].lora_A, before)
    model[0]._disable_adapters = True
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_others_have_nothing_to_fold_into(adapter):
    model, _ = one_layer(adapter, "none")
    with pytest.raises(InvalidSetting, match=f"{adapter}: .*'0'"):
        ADAPTERS.build(adapter).fold(model, "0", generator())


@pytest.mark.parametrize("adapter", MERGING)
def test_what_is_made_once_is_made_anew_after_any_change(adapter):
    """By optimizers that leave version counters alone, by copies into ``.data``, in copies."""
    model, _ = one_layer(adapter, "magnitude")

    def fresh(layer):
        with torch.no_grad():
            return layer.pack(layer.exact()).dense()

    def weight(layer):
        with torch.inference_mode():
            return layer._weight()

    layer = model[0]
    assert torch.equal(weight(layer), fresh(layer))
    disturb(model)
    layer.lora_B.data.mul_(2.0)
    assert torch.equal(weight(layer), fresh(layer))
    other = copy.deepcopy(model)[0]
    for _ in range(5):
        other.latent.mul_(1.5)
        other.lora_A.data.mul_(1.5)
        assert torch.equal(weight(other), fresh(other))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    layer(torch.randn(4, 20)).square().sum().backward()
    before = weight(layer).clone()
    optimizer.step()
    assert torch.equal(weight(layer), fresh(layer))
    assert not torch.equal(weight(layer), before)
    assert weight(layer) is weight(layer)


@pytest.mark.parametrize("adapter", MERGING)
def test_work_is_counted_of_what_ships(adapter):
    model, batch = adapted(ADAPTERS.build(adapter), "block_sparse"), inputs()[:1]
    seen = positions(model, lambda: model(batch))
    plain = compress_model(wide_network(), [rule("block_sparse")], TARGETS)
    assert seen == positions(plain, lambda: plain(batch))
    assert macs(model, seen) == macs(plain, seen)
    assert measure(model, TARGETS) == measure(plain, TARGETS)


@pytest.mark.parametrize("adapter", MERGING)
def test_weights_that_are_not_finite_reach_the_loss(adapter):
    model, _ = one_layer(adapter, "magnitude")
    with torch.no_grad():
        model[0].lora_B.fill_(torch.inf)
    assert not model(torch.randn(2, 20)).isfinite().any()


@pytest.mark.parametrize("method", [m for m in SINGLE if METHODS[m].refills])
def test_a_form_refilled_with_its_own_values_is_itself(method):
    weight = torch.randn(12, 20, generator=generator())
    packed = METHODS.build(method).compress(weight, layer_stats((12, 20)))
    again = packed.refilled(packed.dense())
    assert again.method == packed.method
    for slot, tensor in packed.state().items():
        assert torch.equal(again.state()[slot], tensor)
    other = packed.refilled(torch.ones(12, 20))
    assert torch.equal(other.dense(), torch.where(_kept(packed), 1.0, 0.0))


def _kept(packed):
    """Where a form has values, whatever they are."""
    return packed.refilled(torch.full(packed.shape, 2.0)).dense() == 2.0


@pytest.mark.parametrize("method", DENSITIES)
def test_density_says_what_is_kept_and_can_be_set(method):
    built = METHODS.build(method)
    weight = torch.randn(12, 20, generator=generator())
    resolved = built.compress(weight).method
    kept, of = resolved.density((12, 20))
    assert resolved.density((12, 20)) == built.density((12, 20))
    for count in (kept, kept + 1, of - 1):
        packed = resolved.keeping(count).compress(weight)
        assert packed.method.density((12, 20)) == (count, of)
        share = (packed.dense() != 0).float().mean().item()
        assert share == pytest.approx(count / of)


def test_calibrated_bases_keep_their_choice_under_lors():
    model = wide_network()
    compress_model(
        model, [rule("wanda", adapter="lors", rank=3)], TARGETS,
        generator=generator(), calibration=calibration(),
    )  # fmt: skip
    before = {n: bare(model.get_submodule(n)).weight != 0 for n in ("0", "5", "8", "10")}
    merged = merge(steps(model))
    assert all(torch.equal(merged.get_submodule(n).weight != 0, was) for n, was in before.items())

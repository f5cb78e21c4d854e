"""Layers that compute with packed weights: what they put out, keep, and refuse."""

import copy

import pytest
import torch
from networks import (
    STORED,
    adapted,
    fit,
    generator,
    inputs,
    layer_stats,
    network,
    pattern_for,
    rule,
    variants,
    wide_network,
)
from test_byte_formulas import CHAINS
from torch import nn

from compression.adapters import ADAPTERS
from compression.artifact import ArtifactError, deserialize, load, save, serialize
from compression.footprint import peak_memory, resident_bytes, stated_scratch
from compression.kernels import KERNELS, Kernel, ReadyWeight, prepared
from compression.kernels.lane_layout import codes_of, words_of
from compression.layers import install, packed_of
from compression.merging import merge
from compression.methods import METHODS, chain
from compression.model import compress_model, finalize
from compression.packed_layers import PackedLayer, decode_packed, keep_packed
from compression.peft_format import decoded
from compression.rules import Compression, LayerEntry, compression_of, target_layers

TOLERANCE = 1e-5
"""Of the norm of the outputs: float32 sums in another order, of codes before their scale."""
RESIDENT = 1.1


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near(found, wanted):
    return (found - wanted).norm() <= TOLERANCE * wanted.norm().clamp(min=1e-9)


def layers(method):
    """One of each kind that a method takes, with the inputs of a call."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 7, 7)
    every = {
        "linear": (nn.Linear(96, 83), torch.randn(3, 5, 96)),
        "wide": (nn.Linear(64, 128, bias=False), torch.randn(64)),
        "conv2d": (nn.Conv2d(6, 10, 3, stride=2, padding="valid"), x),
        "grouped": (nn.Conv2d(6, 9, 3, groups=3, padding=1, padding_mode="circular"), x),
        "depthwise": (nn.Conv2d(6, 6, 3, groups=6, dilation=2, bias=False), x[0]),
        "embedding": (nn.Embedding(90, 24), torch.randint(0, 90, (4, 6))),
    }
    kinds = {"wide": "linear", "grouped": "conv2d", "depthwise": "conv2d"}
    return {k: v for k, v in every.items() if kinds.get(k, k) in method.kinds}


def check(method):
    for kind, (layer, x) in layers(method).items():
        packed = method.compress(layer.weight, layer_stats(tuple(layer.weight.shape)))
        twin = copy.deepcopy(layer)
        twin.weight = nn.Parameter(packed.dense())
        model = holder(layer, packed)
        keep_packed(model)
        state = packed.state()
        with torch.no_grad():
            assert near(model.layer(x), twin(x)), (packed.method, kind)
        assert all(torch.equal(state[n], t) for n, t in model.layer.packed.state().items())
        ready = model.layer.packed
        assert ready.resident_bytes <= RESIDENT * packed.stored_bytes(), (packed.method, kind)
        assert not [n for n, p in model.layer.named_parameters() if n != "bias"]


def holder(layer, packed):
    """A model of one layer under a packed weight."""
    model = nn.Module()
    model.layer = layer
    install(layer, packed)
    model.compression = Compression({"layer": LayerEntry(packed.method)})
    return model.eval()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_kind_of_layer(name):
    check(METHODS.build(name))


@pytest.mark.parametrize("name", STORED)
def test_every_form_on_every_kind_of_layer(name):
    for method in variants(METHODS, [name]):
        check(method)


@pytest.mark.parametrize("names", CHAINS, ids="+".join)
def test_chains_on_every_kind_of_layer(names):
    check(chain([METHODS.build(name) for name in names]))


def compressed(method="rtn", adapter="none", model=network):
    made = rule(method, "zeros", adapter, 2 if adapter != "none" else 0)
    pattern = pattern_for(method)
    return serialize(compress_model(model(), [made], [pattern], generator=generator(), stats=None))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_on_packed_layers(adapter):
    data = serialize(finalize(adapted(ADAPTERS.build(adapter))))
    dense, packed = (deserialize(data, wide_network(), keep_packed=keep) for keep in (False, True))
    with torch.no_grad():
        assert near(packed(inputs()), dense(inputs()))
    assert serialize(packed) == serialize(dense)
    assert resident_bytes(packed) <= resident_bytes(dense)


def test_what_is_kept_is_what_is_stored():
    data = serialize(compress_model(wide_network(), [rule("rtn")], ["*"]))
    model = deserialize(data, wide_network(), keep_packed=True)
    packed = [packed_of(layer) for layer in target_layers(model, ["*"]).values()]
    dense = sum(p.nbytes for p in model.parameters()) + sum(
        b.nbytes for n, b in model.named_buffers() if ".packed." not in n
    )
    assert resident_bytes(model) == sum(p.resident_bytes for p in packed) + dense
    assert all(isinstance(p.kernel, str) and p.kernel in KERNELS for p in packed)


@pytest.mark.parametrize("names", [("rtn",), ("magnitude",), ("svd",), ("kronecker",), *CHAINS])
def test_scratch_is_as_stated(names):
    layer = nn.Linear(512, 1200)
    packed = chain([METHODS.build(name) for name in names]).compress(
        layer.weight, layer_stats((1200, 512))
    )
    model, x = holder(layer, packed), torch.randn(2, 512)
    keep_packed(model)
    with torch.no_grad():
        outputs = 8 * x.numel() + 16 * model.layer(x).numel()
        found = peak_memory(lambda: model.layer(x))
    assert 0 < found <= stated_scratch(model) + outputs


def test_rows_are_decoded_some_at_a_time():
    packed = METHODS.build("rtn").compress(weight_of((4096, 512)))
    ready = KERNELS.build("tiled").prepare(packed)
    with torch.no_grad():
        assert peak_memory(lambda: ready.linear(torch.randn(1, 512))) <= ready.scratch_bytes
    assert ready.scratch_bytes < 4096 * 512 * 40 / 4


def test_a_packed_model_is_saved_and_copied_as_it_is(tmp_path):
    data = compressed(adapter="dora")
    model = deserialize(data, network(), keep_packed=True)
    path = str(tmp_path / "again.safetensors")
    save(copy.deepcopy(model), path)
    assert (tmp_path / "again.safetensors").read_bytes() == data
    again = load(path, network(), keep_packed=True)
    assert torch.equal(again(inputs()), model(inputs()))


def test_other_dtypes():
    model = deserialize(compressed(), network(), keep_packed=True)
    wanted = model(inputs())
    states = {n: p.state() for n, p in _packed(model).items()}
    half = model.half()
    found = half(inputs().half())
    assert found.dtype == torch.float16 == half[6].weight.dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=0.01)
    for name, packed in _packed(half).items():  # the format is not converted
        assert all(torch.equal(packed.state()[s], t) for s, t in states[name].items())


def _packed(model):
    return {n: m.packed for n, m in model.named_modules() if isinstance(m, PackedLayer)}


def test_gradients_pass_through():
    data = compressed()
    dense, packed = (deserialize(data, network(), keep_packed=keep) for keep in (False, True))
    found = []
    for model in (dense, packed):
        x = inputs().requires_grad_()
        model(x).square().sum().backward()
        found.append(x.grad)
    assert near(found[1], found[0])


def test_packed_layers_are_read_as_the_layers_they_were():
    data = compressed(adapter="lora")
    dense, packed = (deserialize(data, network(), keep_packed=keep) for keep in (False, True))
    assert target_layers(packed, ["*"]).keys() == target_layers(dense, ["*"]).keys()
    assert compression_of(packed) == compression_of(dense)
    assert near(decoded(packed)(inputs()), decoded(dense)(inputs()))
    assert type(decoded(packed)[6]) is nn.Linear
    layer = packed[3].base_layer
    assert type(type(layer)(2, 3, 1)) is nn.Conv2d  # as PEFT makes its factors
    decode_packed(layer)
    assert type(layer) is nn.Conv2d
    assert torch.equal(layer.weight, dense[3].base_layer.weight)
    decode_packed(layer)  # of an ordinary layer: nothing
    assert serialize(packed) == data


def test_an_adapter_merges_into_a_packed_model():
    data = (
        serialize(
            compress_model(
                wide_network(),
                [rule("rtn", "zeros", "quantized_merge", 2)],
                ["*"],
                generator=generator(),
            )
        )
        if "quantized_merge" in ADAPTERS
        else compressed()
    )
    model = deserialize(data, wide_network(), keep_packed=True)
    assert serialize(merge(model)) == data


def test_a_dense_file_is_loaded_as_it_is():
    data = serialize(network())
    model = deserialize(data, network(1), keep_packed=True)
    assert type(model[6]) is nn.Linear
    assert serialize(model) == data


def test_another_architecture_is_refused_by_name():
    other = network()
    other[6] = nn.Linear(45, 13)
    with pytest.raises(ArtifactError, match=r"here: tensor '6\.codes' is .* this model needs"):
        deserialize(compressed(), other, "here", keep_packed=True)


def test_a_table_that_changes_as_it_is_read_is_refused():
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0))
    data = serialize(compress_model(model, [rule("rtn", pattern="0")], ["0"]))
    with pytest.raises(ArtifactError, match="'0': an Embedding with max_norm"):
        deserialize(data, nn.Sequential(nn.Embedding(9, 4, max_norm=1.0)), keep_packed=True)


@pytest.mark.parametrize("method", ["rtn", "int1", "svd", "magnitude"])
def test_a_table_takes_no_rows_and_refuses_those_it_has_not(method):
    model = nn.Sequential(nn.Embedding(9, 4))
    data = serialize(compress_model(model, [rule(method, pattern="0")], ["0"]))
    packed = deserialize(data, nn.Sequential(nn.Embedding(9, 4)), keep_packed=True)
    assert packed(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 4)
    for index in (-1, 9):
        with pytest.raises(IndexError, match="out of range"):
            packed(torch.tensor([index]))


def test_a_kernel_that_is_registered_later_has_its_turn(monkeypatch):
    class Later(Kernel):
        name = "later"

        def refusal(self, weight, layer):
            return None if weight.method.name == "nf4" else "not nf4"

        def prepare(self, weight):
            return ReadyWeight(weight, self.name)

    monkeypatch.setitem(KERNELS._plugins, "later", Later)
    for method, kernel in (("nf4", "later"), ("ternary", "tiled")):
        packed = METHODS.build(method).compress(weight_of((10, 16)))
        assert prepared(packed, nn.Linear(16, 10)).kernel == kernel


def test_every_kernel_says_why_not():
    packed = METHODS.build("rtn").compress(weight_of((10, 16)))
    layer = nn.Linear(16, 10)
    said = [KERNELS.build(name).refusal(packed, layer) for name in KERNELS]
    assert said[-1] is None  # the last one takes everything
    assert all(text is None or text.strip() for text in said)
    assert prepared(packed, layer).kernel in KERNELS


GRIDS = [
    *(
        ("rtn", {"bits": bits, "mode": mode, "group_size": 32})
        for bits in range(2, 9)
        for mode in ("symmetric", "asymmetric")
    ),
    ("rtn", {"bits": 4, "scale_dtype": "float32"}),
    ("awq", {"alpha": 0.5}),
    ("hqq", {"bits": 3}),
    ("int1", {"scale": "none"}),
    ("int1", {"scale": "group", "passes": 3}),
    ("sign", {}),
]


@pytest.mark.parametrize(("name", "args"), GRIDS)
@pytest.mark.parametrize("shape", [(128, 96), (64, 70), (250, 4, 4, 4)])
def test_lanes_are_the_decoded_weight(name, args, shape):
    pytest.importorskip("numba")
    weight = weight_of(shape) * torch.logspace(-7, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    packed = METHODS.build(name, args).compress(weight, layer_stats(shape))
    layer = nn.Conv2d(shape[1], shape[0], shape[2:]) if shape[2:] else nn.Linear(*shape[::-1])
    said = KERNELS.build("lanes").refusal(packed, layer)
    if said is not None:
        assert "groups of" in said or "would take" in said
        return
    ready, dense = KERNELS.build("lanes").prepare(packed), packed.dense()
    state = ready.state()
    assert all(torch.equal(state[slot], tensor) for slot, tensor in packed.state().items())
    assert ready.resident_bytes <= RESIDENT * packed.stored_bytes()
    blocks = torch.cat(list(ready.blocks()))
    # Each row by itself: their scales are far apart.
    largest = dense.flatten(1).abs().amax(1)
    assert ((blocks - dense).flatten(1).abs().amax(1) <= 1e-6 * largest).all()
    for count in (1, 3, 40):  # by the codes themselves, and decoded
        x = weight_of((count, dense[0].numel()), seed=count)
        found, wanted = ready.linear(x), x.double() @ dense.flatten(1).T.double()
        bound = TOLERANCE * x.abs().sum(1, keepdim=True) * largest
        assert ((found - wanted).abs() <= bound).all()
    again = copy.deepcopy(ready)
    assert torch.equal(again.linear(x), found)
    assert again.resident_bytes == ready.resident_bytes


def test_codes_come_out_of_lanes_as_they_went_in():
    for bits in (1, 2, 4, 8):
        codes = torch.randint(0, 2**bits, (130, 37), generator=torch.Generator().manual_seed(bits))
        words = words_of(codes, bits)
        assert words.shape[0] == 3
        assert torch.equal(codes_of(words, bits, 130, 37), codes)


@pytest.mark.gpu
def test_on_a_gpu():
    for name in METHODS:
        if fit(name, "none"):
            for layer, x in layers(METHODS.build(name)).values():
                stats = layer_stats(tuple(layer.weight.shape))
                model = holder(layer, METHODS.build(name).compress(layer.weight, stats))
                keep_packed(model)
                with torch.no_grad():
                    wanted, found = model.layer(x), model.cuda().layer(x.cuda()).cpu()
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)

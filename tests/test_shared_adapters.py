"""Adapters of our own that share tensors or rebuild them, or whose singular vectors move."""

import math

import pytest
import torch
from networks import generator, rule
from torch import nn
from torch.nn import functional as F

from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import BASIS
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.model import compress_model, finalize, trainable
from compression.registry import InvalidSetting
from compression.rules import shapes
from compression.size import measure

RANK, ALPHA = 4, 6.0


def stack():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(5)), nn.Linear(16, 8))


def adapted(name, moved=True, **knobs):
    """Five layers of one shape and one of another; whatever is trained moved from its start."""
    adapter = ADAPTERS.build(name, knobs)
    rules = [rule("none", "zeros", adapter, RANK, ALPHA if adapter.scaled else None)]
    model = compress_model(stack(), rules, ["*"], generator=generator())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(model) if moved else ():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return adapter, model


def delta(layer):
    """The delta (m, n) of a linear adapter of a Linear."""
    eye = torch.eye(layer.weight.shape[1])
    return (layer(eye) - bare(layer)(eye)).detach().T


NUMBERS = {  # of L layers (m, n), all that is stored
    "mos": lambda m, n, layers: (4 + layers) * (m + n),
    "dense_lora": lambda m, n, layers: RANK * (m + n) + layers * RANK**2,
    "msplora": lambda m, n, layers: (m + n) * (RANK + 2 * math.ceil(layers / 2) + layers),
    "spectral_adapter": lambda m, n, layers: layers * (2 * RANK * (m + n) + RANK),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NUMBERS)
def test_stored_bytes_and_the_start_are_as_the_docstring_says(name, dtype):
    _, model = adapted(name, moved=False, dtype=dtype)
    x = torch.randn(3, 16)
    assert torch.equal(model(x), stack()(x))
    count = NUMBERS[name](16, 16, 5) + NUMBERS[name](8, 16, 1)
    width = {"float32": 4, "float16": 2}[dtype]
    found = measure(finalize(model), ["*"]).model["adapter"]
    assert found == width * count + (8 if name == "mos" else 0)


@pytest.mark.parametrize("name", NUMBERS)
def test_layers_share_what_they_shared_after_loading(name):
    _, model = adapted(name)
    again = deserialize(serialize(finalize(model)), stack())
    for one, other in ((model, again), (again, model)):
        for suffix, tensor in one[0].own().items():
            same = tensor is one[1].own()[suffix]
            assert same is (other[0].own()[suffix] is other[1].own()[suffix])
    x = torch.randn(3, 16)
    assert torch.equal(again(x), model(x))


def test_mos_puts_vectors_together_from_shards_of_the_pool_and_its_own():
    adapter, model = adapted("mos", shards=4)
    for layer in model[:5]:
        own, s = layer.own(), 4
        rows = {}
        for side in "AB":
            # A slow twin: vector by vector, shard by shard.
            shards = [v[i * 4 : i * 4 + 4] for v in own[f"pool_{side}"] for i in range(s)]
            places = own[f"index_{side}"].tolist()
            assert len(set(places)) == len(places) == (RANK - 1) * s
            vectors = [
                torch.cat([shards[p] for p in places[i * s : i * s + s]]) for i in range(RANK - 1)
            ]
            rows[side] = torch.stack([*vectors, *own[f"private_{side}"]])
        expected = ALPHA / RANK * rows["B"].T @ rows["A"]
        torch.testing.assert_close(delta(layer), expected, atol=1e-5, rtol=1e-4)
    assert model[0].pool_A is model[4].pool_A
    assert not torch.equal(model[0].index_A, model[1].index_A)
    _, twin = adapted("mos", shards=4)
    _, other = adapted("mos", shards=4, seed=1)
    assert torch.equal(twin[0].index_A, model[0].index_A)
    assert not torch.equal(other[0].index_A, model[0].index_A)


def test_dense_lora_codes_decodes_and_changes_in_between():
    for activation, f in (("gelu", F.gelu), ("tanh", torch.tanh), ("leaky_relu", F.leaky_relu)):
        _, model = adapted("dense_lora", activation=activation)
        own, x = model[1].own(), torch.randn(3, 16)
        inner = f(f(x @ own["A"].T) @ own["mixer"].T)
        expected = bare(model[1])(x) + ALPHA / RANK * inner @ own["B"].T
        torch.testing.assert_close(model[1](x), expected, atol=1e-5, rtol=1e-4)
        assert model[0].A is model[1].A
        assert model[0].mixer is not model[1].mixer


def test_dense_lora_reaches_every_core_from_its_start():
    _, model = adapted("dense_lora", moved=False)
    model(torch.randn(3, 16)).square().sum().backward()
    assert all(layer.mixer.grad.any() for layer in model)


def test_msplora_adds_a_common_a_grouped_and_a_local_delta():
    _, model = adapted("msplora", group_size=2)
    for layer in model:
        own = layer.own()
        levels = [own[f"{e}_B"] @ own[f"{e}_A"] for e in ("global", "group", "local")]
        expected = ALPHA / RANK * sum(levels)
        torch.testing.assert_close(delta(layer), expected, atol=1e-5, rtol=1e-4)
    assert all(layer.global_A is model[0].global_A for layer in model[:5])
    assert model[5].global_A is not model[0].global_A
    heads = [next(i for i in range(5) if model[i].group_B is model[j].group_B) for j in range(5)]
    assert heads == [0, 0, 2, 2, 4]
    assert len({id(layer.local_A) for layer in model}) == 6
    ranks = [model[0].own()[f"{e}_A"].shape[0] for e in ("global", "group", "local")]
    assert ranks == [4, 2, 1]


def test_spectral_adapter_adds_to_the_leading_singular_vectors():
    _, model = adapted("spectral_adapter", mode="add")
    layer = model[0]
    own, weight = layer.own(), bare(layer).weight.detach()
    u, s, vh = torch.linalg.svd(weight)
    rest = u[:, RANK:] * s[RANK:] @ vh[RANK:]
    moved = (own["U"] + own["moved_U"]) * own["S"] @ (own["V"] + own["moved_V"])
    torch.testing.assert_close(weight + delta(layer), moved + rest, atol=1e-5, rtol=1e-4)


def test_spectral_adapter_rotates_and_keeps_every_singular_value():
    _, model = adapted("spectral_adapter", mode="rotate")
    for layer in model:
        weight = bare(layer).weight.detach()
        found = torch.linalg.svdvals(weight + delta(layer))
        torch.testing.assert_close(found, torch.linalg.svdvals(weight), atol=1e-5, rtol=1e-4)
        assert delta(layer).norm() > 0.01
        u, _, _ = torch.linalg.svd(weight)
        outside = u[:, RANK:].T @ delta(layer)
        assert outside.abs().max() < 1e-5


def test_every_trained_tensor_of_a_layer_alone_in_its_shape_learns():
    for name in NUMBERS:
        adapter = ADAPTERS.build(name)
        model = nn.Sequential(nn.Linear(16, 8))
        adapter.attach(model, {"0": AdapterStart(RANK, ALPHA)})
        with torch.no_grad():
            for suffix in adapter.trained:
                model[0].own()[suffix].add_(torch.randn_like(model[0].own()[suffix]))
        model(torch.randn(3, 16)).square().sum().backward()
        assert all(model[0].own()[suffix].grad.any() for suffix in adapter.trained), name


def test_lotr_shares_the_outer_factors_among_layers_of_one_shape():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 8))
    compress_model(model, [rule("rtn", "zeros", "lotr", RANK)], ["*"], generator=generator())
    assert model[0].A is model[1].A is model[2].A
    assert model[0].B is model[2].B
    assert model[0].mixer is not model[1].mixer
    assert model[3].A is not model[0].A
    stored = sum(p.numel() for p in trainable(model))
    assert stored == RANK * 32 + 3 * RANK**2 + RANK * 24 + RANK**2
    assert 4 * stored == measure(finalize(model), ["*"]).targets["adapter"]
    sizes = shapes(model, model.compression.layers)
    assert 32 * stored == ADAPTERS.build("lotr").nominal_bits(sizes)


def test_nola_refuses_bases_that_are_not_what_they_were():
    adapter = ADAPTERS.build("nola")
    model = finalize(adapted("nola")[1])
    layers = {name: (entry.rank, entry.alpha) for name, entry in model.compression.layers.items()}
    stored = {k: t.clone() for k, t in adapter.stored(model, layers).items()}
    stored[f"{next(iter(layers))}.{BASIS}"][0] ^= 1
    with pytest.raises(InvalidSetting, match="rebuilt"):
        adapter.restore(stack(), layers, stored)


def test_spectral_adapter_refuses_to_rotate_one_vector():
    layers = {"fc": nn.Linear(8, 8)}
    rotating = ADAPTERS.build("spectral_adapter", {"mode": "rotate"})
    assert list(rotating.refusals(layers, 1)) == [
        "fc: spectral_adapter rotates two vectors or more; rank 1 has one"
    ]
    assert not list(rotating.refusals(layers, 2))
    assert not list(ADAPTERS.build("spectral_adapter").refusals(layers, 1))

"""What defines the rest of PEFT's adapters: made of the base, or of a few shared values."""

import copy

import pytest
import torch
from adapter_layers import attached, delta_of, one, values, weight_of
from networks import adapted, generator, inputs, rule, wide_network
from torch import nn
from torch.nn import functional as F

from compression.acting import Moment
from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import Bridged
from compression.model import compress_model
from compression.registry import InvalidSetting


def close(found, expected, tol=1e-5):
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


def base_of(layer):
    return layer.base_layer.weight.detach()


def test_hira_multiplies_the_base():
    layer = one("hira", rank=2)
    close(delta_of(layer), base_of(layer) * (values(layer, "hira_B") @ values(layer, "hira_A")))
    assert torch.linalg.matrix_rank(delta_of(layer), atol=1e-5) > 2


def test_hira_leaves_zeros_of_a_sparse_base_and_a_convolution():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    with torch.no_grad():
        model[0].weight[torch.rand(6, 4, 3, 3) < 0.5] = 0
    adapter = ADAPTERS.build("hira")
    compress_model(model, [rule(adapter=adapter, rank=2)], ["*"], generator=generator())
    layer = model[0]
    with torch.no_grad():
        layer.hira_B["default"].normal_()
    product = values(layer, "hira_B").flatten(1) @ values(layer, "hira_A").flatten(1)
    weight = base_of(layer) * (1 + product.view(6, 4, 3, 3))
    x = torch.randn(2, 4, 5, 5)
    close(layer(x), F.conv2d(x, weight, layer.base_layer.bias, padding=1), 1e-4)
    assert not weight[base_of(layer) == 0].any()


@pytest.mark.parametrize("depth", [0, 1])
def test_peanut_is_a_network_of_the_columns_of_the_base(depth):
    layer = one("peanut", {"depth": depth, "scaling": 2.0, "activation": "relu"})
    a, b = values(layer, "peanut_A"), values(layer, "peanut_B")
    hidden = first = (a @ base_of(layer)).relu()
    if depth:
        inner, outer = (
            getattr(layer, f"peanut_{kind}coders")["default"][0].weight for kind in ("en", "de")
        )
        hidden = (outer @ (inner @ first).relu()).relu() + first
    close(delta_of(layer), 2.0 * b @ hidden)


def test_deft_replaces_a_part_of_the_outputs():
    layer = one("deft")
    q = torch.linalg.qr(values(layer, "deft_P")).Q
    expected = base_of(layer) - q @ q.T @ base_of(layer) + q @ values(layer, "deft_R")
    close(weight_of(layer), expected)
    away = torch.eye(16) - q @ q.T
    close(away @ weight_of(layer), away @ base_of(layer))


def test_glora_scales_and_shifts_weight_and_bias():
    layer = one("glora", {"bias": True})
    a, b = (getattr(layer, f"glora_{p}")["default"]().detach() for p in "AB")
    c, d, e = (getattr(layer, f"glora_{p}")["default"]().detach() for p in "CDE")
    weight, bias = base_of(layer), layer.base_layer.bias.detach()
    close(weight_of(layer), weight + weight * a + b)
    shifted = bias + bias * d + e + (weight @ c).squeeze(-1)
    close(layer(torch.zeros(1, 32))[0], shifted, 1e-4)
    assert torch.linalg.matrix_rank(a) == torch.linalg.matrix_rank(b) == 4


def test_glora_with_vectors_scales_rows_and_adds_to_them():
    layer = one("glora_vector")
    a, b = (layer.get_submodule(f"glora_{path}.default").X for path in "AB")
    close(weight_of(layer), (base_of(layer) * (1 + a) + b).detach())


def test_glora_refuses_a_bias_that_is_not_there():
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    adapter = ADAPTERS.build("glora", {"bias": True})
    with pytest.raises(InvalidSetting, match="glora cannot take '0': it has no bias"):
        compress_model(model, [rule("rtn", adapter=adapter, rank=2)], ["*"])
    adapter = ADAPTERS.build("glora")
    assert compress_model(model, [rule("rtn", adapter=adapter, rank=2)], ["*"]).compression.layers


@pytest.mark.parametrize("largest", [True, False])
def test_supertuning_changes_the_largest_or_smallest_weights(largest):
    layer = one("supertuning", {"density": 0.1, "largest": largest})
    changed, sizes = delta_of(layer).abs() > 1e-5, base_of(layer).abs()
    assert changed.sum() == 51
    if largest:
        assert sizes[changed].min() >= sizes[~changed].max()
    else:
        assert sizes[changed].max() <= sizes[~changed].min()


def test_supertuning_can_have_a_lora_beside_it():
    layer = one("supertuning", {"density": 0.01, "hybrid_rank": 3})
    a, b = (values(layer, f"supertuning_lora_{x}") for x in "AB")
    rest = delta_of(layer) - 2.0 * b @ a
    assert (rest.abs() > 1e-5).sum() == 5


def test_supertuning_refuses_a_density_of_no_weight():
    with pytest.raises(InvalidSetting, match="leaves none of its 512 weights"):
        one("supertuning", {"density": 1e-4})


def test_beft_shifts_outputs():
    layer = one("beft")
    x = torch.randn(3, 32)
    close(layer(x), layer.base_layer(x) + values(layer, "beft_bias"))


def test_pvera_samples_in_training_steps_alone_and_goes_on_from_its_state():
    adapter = ADAPTERS.build("pvera")
    model = adapted(adapter)
    with torch.no_grad():
        for layer in ("5", "8"):
            model.get_submodule(layer).pvera_lambda_b["default"].fill_(1.0)
    acting = adapter.acting(model, ["5", "8"], seed=3)
    moment, mean = Moment(0, 10, 0.1), model(inputs())

    def sampled(acting):
        acting.before_step(moment)
        found = model(inputs())
        acting.after_backward(moment)
        return found

    first, state = sampled(acting), copy.deepcopy(acting.state())
    second = sampled(acting)
    assert torch.equal(model(inputs()), mean)
    assert not torch.equal(first, mean)
    assert not torch.equal(first, second)
    assert torch.equal(sampled(adapter.acting(model, ["5", "8"], seed=3)), first)
    again = adapter.acting(model, ["5", "8"], seed=9)
    again.restore(state)
    assert torch.equal(sampled(again), second)
    copy.deepcopy(model)


def test_pvera_is_vera_of_the_mean():
    layer = attached(ADAPTERS.build("pvera"))[0]
    a, b, d, outer = (values(layer, f"pvera_{x}") for x in ("A", "B", "lambda_d", "lambda_b"))
    assert a.shape == (8, 32)
    close(delta_of(layer), outer[:, None] * b @ (d[:4, None] * a[:4]))


def test_pvera_trains_the_spread_by_its_noise():
    adapter = ADAPTERS.build("pvera")
    model = attached(adapter)
    acting, moment = adapter.acting(model, ["0"], seed=0), Moment(0, 10, 0.1)
    acting.before_step(moment)
    model(torch.randn(5, 32)).square().sum().backward()
    acting.after_backward(moment)
    assert (model[0].pvera_lambda_d["default"].grad[4:] != 0).all()


@pytest.mark.parametrize(
    ("tying", "groups"), [(0.0, [0, 1, 2, 3]), (0.5, [0, 0, 1, 1]), (1.0, [0] * 4)]
)
def test_tinylora_trains_one_vector_for_each_group(tying, groups):
    adapter = ADAPTERS.build("tinylora", {"size": 6, "tying": tying})
    model = attached(adapter, 4, rank=2)
    vectors = model[0].tinylora_v["default"]
    assert len(vectors) == len(set(groups))
    for layer, group in zip(model, groups, strict=True):
        a, b, p = (values(layer, f"tinylora_{x}") for x in "ABP")
        r = torch.einsum("i,ijk->jk", vectors[str(group)].detach(), p)
        close(delta_of(layer), b @ r @ a)
        u, s, v = torch.linalg.svd(base_of(layer))
        close(b @ a, u[:, :2] * s[:2] @ v[:2])
    layout = adapter.layout({str(i): ((16, 32), 2) for i in range(4)})
    stored = sum(slot.nbytes for slot in layout.values())
    assert stored == 4 * (6 * len(set(groups)) + 4 * 2 * (16 + 32)) + 8
    live = adapter.parameters(model, map(str, range(4)))
    assert {key: tuple(t.shape) for key, t in live.items()} == {
        key: slot.shape for key, slot in layout.items()
    }


def test_unilora_is_an_isometry_from_one_vector():
    adapter = ADAPTERS.build("unilora", {"size": 50})
    model = attached(adapter, 3)
    assert len({id(layer.unilora_theta_d["default"]) for layer in model}) == 1
    theta = values(model[0], "unilora_theta_d")
    squares, used = 0.0, set()
    for layer in model:
        parts = {}
        for factor in "AB":
            indices, scales = (
                values(layer, f"unilora_{x}_{factor}") for x in ("indices", "scales")
            )
            parts[factor] = theta[indices] * scales
            squares += parts[factor].square().sum()
            used |= {(factor, int(index)) for index in indices.unique()}
        close(delta_of(layer), parts["B"] @ parts["A"])
    close(squares, theta.square().sum(), 1e-4)
    assert used == {("A", i) for i in range(25)} | {("B", i) for i in range(25, 50)}


def test_unilora_starts_at_no_delta():
    model = attached(ADAPTERS.build("unilora"), noise=0.0)
    x = torch.randn(3, 32)
    assert torch.equal(model(x), model[0].base_layer(x))
    model(x).square().sum().backward()
    assert model[0].unilora_theta_d["default"].grad[128:].any()


OF_BASE = [n for n in ADAPTERS if issubclass(ADAPTERS[n], Bridged) and ADAPTERS[n].of_base]


def delta_over(adapter, seed):
    """What an adapter with the same values adds to one of two bases."""
    model = nn.Sequential(nn.Linear(32, 16)).requires_grad_(False)
    torch.manual_seed(seed)
    with torch.no_grad():
        base = model[0].weight.normal_(0, 0.2).clone()
    rank = 4 if adapter.ranked else 0
    torch.manual_seed(3)
    adapter.attach(model, {"0": AdapterStart(rank, 4.0, dense=base)})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return delta_of(model[0])


@pytest.mark.parametrize("name", [n for n in ADAPTERS if issubclass(ADAPTERS[n], Bridged)])
def test_what_changes_the_base_is_known(name):
    """DoRA scales the rows of base and delta together, and so can do without the base.

    BEFT adds to outputs whatever the base is, and cannot.
    """
    adapter = ADAPTERS.build(name)
    same = torch.allclose(delta_over(adapter, 0), delta_over(adapter, 1), atol=1e-4)
    assert same != ((adapter.of_base or name in ("dora", "dora_dynamic")) and name != "beft")


@pytest.mark.parametrize(
    "adapter", [*map(ADAPTERS.build, OF_BASE), ADAPTERS.build("miss", {"variant": "bat"})], ids=str
)
def test_what_changes_the_base_is_refused_where_a_method_leaves_none(adapter):
    rules = [rule("drop_base", adapter=adapter, rank=2 if adapter.ranked else 0, pattern="5")]
    reason = f"{adapter.name} .*changes the base, of which drop_base leaves nothing"
    with pytest.raises(InvalidSetting, match=reason) as caught:
        compress_model(wide_network(), rules, ["5"])
    assert len(caught.value.errors) == 1


BESIDE = {"beft", "deft", "glora", "glora_vector", "supertuning"}
"""Those that also add what is not made of the base."""


@pytest.mark.parametrize("name", sorted(set(OF_BASE) - BESIDE))
def test_what_is_made_of_the_base_is_nothing_on_zeros(name):
    model = nn.Sequential(nn.Linear(32, 16)).requires_grad_(False)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    compress_model(model, [rule(adapter=name, rank=2 if ADAPTERS[name].ranked else 0)], ["*"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand(parameter.shape))
    assert model(torch.randn(4, 32)).abs().max() < 1e-5


BYTES = {
    "beft": lambda m, n, r: 4 * m,
    "hira": lambda m, n, r: 4 * r * (m + n),
    "peanut": lambda m, n, r: 8 * r * m,
    "deft": lambda m, n, r: 4 * r * (m + n),
    "glora": lambda m, n, r: 8 * r * (m + n),
    "glora_vector": lambda m, n, r: 8 * m,
    "supertuning": lambda m, n, r: 8 * int(m * n * (1 - (1 - 0.01))),
    "pvera": lambda m, n, r: 4 * (m + 2 * r) + 8,
    "unilora": lambda m, n, r: 4 * 256 + 8,
    "tinylora": lambda m, n, r: 4 * (64 + r * (m + n)) + 8,
}


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize(("shape", "rank"), [((48, 32), 4), ((16, 64), 6)])
def test_stored_bytes_follow_their_formula(name, shape, rank):
    layout = ADAPTERS.build(name).layout({"a": (shape, rank)})
    assert sum(slot.nbytes for slot in layout.values()) == BYTES[name](*shape, rank)

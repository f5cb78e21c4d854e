"""What each adapter of our own promises: its delta, its start, what it trains and stores."""

import math

import pytest
import torch
from networks import adapted, inputs, rule, wide_network
from test_adapters import call, learn
from torch import nn

from compression.adapters import ADAPTERS, AdapterStart
from compression.artifact import deserialize, serialize
from compression.kinds import bare
from compression.model import compress_model, finalize, trainable
from compression.registry import InvalidSetting

RANK, ALPHA = 4, 6.0
LAYERS = {
    "linear": (lambda: nn.Linear(16, 8), (5, 16)),
    "tokens": (lambda: nn.Linear(8, 16, bias=False), (2, 3, 8)),
    "conv": (lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1), (2, 4, 9, 9)),
    "dilated": (lambda: nn.Conv2d(4, 8, (3, 1), dilation=(2, 1), padding="same"), (2, 4, 9, 9)),
}


def attached(name, make=LAYERS["linear"][0], moved=True, rank=RANK, **knobs):
    """A layer of its own under an adapter, whatever is trained moved away from its start."""
    adapter = ADAPTERS.build(name, knobs)
    torch.manual_seed(0)
    model = nn.Sequential(make())
    if refused := list(adapter.refusals({"0": model[0]}, rank)):
        pytest.skip(refused[0])
    adapter.attach(model, {"0": AdapterStart(rank, ALPHA)})
    with torch.no_grad():
        for parameter in model[0].parameters(recurse=False) if moved else ():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        if name == "singlora":
            model[0].u.fill_(0.25)
    return adapter, model


def top(layer, count):
    u, s, vh = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    return u[:, :count], s[:count], vh[:count]


def dense_delta(name, layer):
    """The delta (m, n) by its formula, from the layer's tensors."""
    t, s = layer.own(), ALPHA / RANK
    rows, columns = layer.weight.flatten(1).shape
    if name == "singlora":
        return s * 0.25 * t["A"][:rows] @ t["A"][:columns].T
    if name == "moslora":
        return s * t["lora_B"] @ t["mixer"] @ t["lora_A"]
    if name in ("lora_xs", "lotr"):
        return s * t["B"] @ t["R" if name == "lora_xs" else "mixer"] @ t["A"]
    if name == "svfit":
        return t["B"] @ torch.diag(t["shift"]) @ t["A"]
    if name == "salt":
        moved = torch.diag(t["sigma"] * (t["gain"] - 1) + t["shift"])
        return t["U"] @ moved @ t["V"] + s * t["lora_B"] @ t["lora_A"]
    if name == "nora":
        return s * t["outer_B"] @ t["inner_B"] @ t["inner_A"] @ t["outer_A"]
    if name == "nola":
        a = sum(x * basis for x, basis in zip(t["mix_A"], t["basis_A"], strict=True))
        return s * sum(x * b for x, b in zip(t["mix_B"], t["basis_B"], strict=True)) @ a
    if name == "block_lora":
        return s * torch.cat([b @ t["A"] for b in t["B"].split(RANK, dim=1)], dim=1)
    assert name == "selective_lora"
    return float(t["indicator"] >= 0.1) * s * t["lora_B"] @ t["lora_A"]


ADDED = "singlora moslora lora_xs lotr svfit salt nora nola block_lora selective_lora".split()
OF_BASE = "lora_xs svfit salt nora edora".split()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ADDED)
def test_the_layer_is_the_base_plus_the_delta_of_the_formula(name, kind):
    make, shape = LAYERS[kind]
    _, model = attached(name, make)
    x, base = torch.randn(shape), bare(model[0])
    expected = x.new_zeros(0)
    delta = dense_delta(name, model[0]).view_as(base.weight)
    if isinstance(base, nn.Conv2d):
        expected = base._conv_forward(x, base.weight + delta, base.bias)
    else:
        expected = call(base, base.weight + delta, x)
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    assert name == "selective_lora" or delta.norm() > 0.01
    model[0]._disable_adapters = True
    assert torch.equal(model(x), base(x))


# Of m outputs, n inputs, rank r: values that are trained, and values that are stored.
COUNTS = {
    "rslora": (lambda m, n, r: r * (m + n), lambda m, n, r: r * (m + n)),
    "singlora": (lambda m, n, r: r * max(m, n), lambda m, n, r: r * max(m, n)),
    "moslora": (lambda m, n, r: r * (m + n + r), lambda m, n, r: r * (m + n)),
    "lora_xs": (lambda m, n, r: r * r, lambda m, n, r: r * (m + n) + r * r),
    "svfit": (lambda m, n, r: r, lambda m, n, r: r * (m + n) + r),
    "salt": (
        lambda m, n, r: 2 * min(4, m) + r * (m + n),
        lambda m, n, r: (min(4, m) + r) * (m + n) + 3 * min(4, m),
    ),
    "edora": (lambda m, n, r: r * r + m, lambda m, n, r: r * (m + n) + r * r + m),
    "nora": (lambda m, n, r: 4 * r, lambda m, n, r: r * (m + n) + 4 * r),
    "nola": (lambda m, n, r: 128, lambda m, n, r: 128),
    "block_lora": (lambda m, n, r: r * (n // 2 + 2 * m), lambda m, n, r: r * (n // 2 + 2 * m)),
    "selective_lora": (lambda m, n, r: r * (m + n) + 1, lambda m, n, r: r * (m + n)),
    "lotr": (lambda m, n, r: r * (m + n) + r * r, lambda m, n, r: r * (m + n) + r * r),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_trained_and_what_is_stored(name, kind, dtype):
    make, _ = LAYERS[kind]
    adapter, model = attached(name, make, moved=False, dtype=dtype)
    shape = tuple(bare(model[0]).weight.shape)
    (m, n), (trained, stored) = (shape[0], math.prod(shape[1:])), COUNTS[name]
    own = {id(p) for p in bare(model[0]).parameters()}
    assert sum(p.numel() for p in model.parameters() if id(p) not in own) == trained(m, n, RANK)
    width = {"float32": 4, "float16": 2}[dtype]
    found = sum(slot.nbytes for slot in adapter.layout({"0": (shape, RANK)}).values())
    assert found == width * stored(m, n, RANK) + (8 if name == "nola" else 0)


@pytest.mark.parametrize("alpha", [2.0, 8.0])
def test_rslora_is_lora_with_alpha_times_the_root_of_the_rank(alpha):
    scales = []
    for name, its in (("rslora", alpha), ("lora", alpha * RANK**0.5)):
        adapter = ADAPTERS.build(name)
        model = adapted(adapter, alpha=its)
        scales.append([pair.scale for pair in adapter.pairs(model, model.compression.layers)])
    assert scales[0] == pytest.approx(scales[1])
    assert scales[0] == pytest.approx([alpha / RANK**0.5] * len(scales[0]))


def test_moslora_with_the_identity_between_its_factors_is_lora_bit_by_bit():
    models = [
        adapted(ADAPTERS.build(name, knobs), init="residual", alpha=ALPHA)
        for name, knobs in (("moslora", {"mixer_init": "identity"}), ("lora", {}))
    ]
    lora = ADAPTERS.build("lora").parameters(models[1], models[1].compression.layers)
    for layer in models[0].compression.layers:
        for suffix in ("lora_A", "lora_B"):
            own = models[0].get_submodule(layer).own()[suffix].data
            lora[f"{layer}.{suffix}"].data.copy_(own.view_as(lora[f"{layer}.{suffix}"]))
    assert torch.equal(models[0](inputs()), models[1](inputs()))


@pytest.mark.parametrize("start", ["orthogonal", "kaiming", "identity"])
def test_moslora_ships_a_lora_with_the_mixer_in_b(start):
    adapter = ADAPTERS.build("moslora", {"mixer_init": start})
    model = learn(adapted(adapter), adapter)
    before = model(inputs())
    again = deserialize(serialize(finalize(model)), wide_network(seed=9))
    assert {entry.adapter.name for entry in again.compression.layers.values()} == {"lora"}
    torch.testing.assert_close(model(inputs()), before)
    assert torch.equal(again(inputs()), model(inputs()))


@pytest.mark.parametrize("name", ["lora_xs", "nora", "svfit"])
def test_deltas_stay_within_the_leading_singular_vectors_of_the_base(name):
    _, model = attached(name)
    u, _, vh = top(model[0], RANK)
    delta = dense_delta(name, model[0])
    torch.testing.assert_close(u @ (u.T @ delta), delta, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(delta @ vh.T @ vh, delta, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["svfit", "salt"])
def test_only_the_leading_singular_values_move(name):
    _, model = attached(name)
    own, (u, s, vh) = model[0].own(), top(model[0], 8)
    if name == "salt":
        own["lora_B"].data.zero_()
    whole = u.T @ (model[0].weight + dense_delta(name, model[0])) @ vh.T
    gain = own["gain"] if name == "salt" else 1.0
    expected = torch.cat([s[:RANK] * gain + own["shift"], s[RANK:]])
    torch.testing.assert_close(whole, torch.diag(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_edora_has_rows_of_its_own_norm_in_the_direction_of_the_sum(kind):
    make, shape = LAYERS[kind]
    _, model = attached("edora", make)
    own, base, x = model[0].own(), bare(model[0]), torch.randn(shape)
    v = base.weight.flatten(1) + ALPHA / RANK * own["B"] @ own["R"] @ own["A"]
    rows = (own["magnitude"] / v.norm(dim=1))[:, None] * v
    torch.testing.assert_close(rows.norm(dim=1), own["magnitude"].abs())
    if isinstance(base, nn.Conv2d):
        expected = base._conv_forward(x, rows.view_as(base.weight), base.bias)
    else:
        expected = call(base, rows, x)
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_edoras_norms_are_exact_in_half_precision_too():
    adapter, model = attached("edora")
    expected, own = adapter.norms(model[0]), model[0].own()
    v = bare(model[0]).weight + ALPHA / RANK * own["B"] @ own["R"] @ own["A"]
    torch.testing.assert_close(expected, v.norm(dim=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter.norms(model[0]), expected)


def test_edora_takes_all_zero_rows():
    model = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[1:3] = 0
    x = torch.randn(5, 6)
    expected = model(x).detach()
    compress_model(model, [rule("none", "zeros", "edora", 2)], ["*"])
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in trainable(model))


@pytest.mark.parametrize("name", OF_BASE)
def test_what_is_frozen_is_trained_on_as_it_is_stored(name):
    adapter, model = attached(name, moved=False, dtype="bfloat16")
    for suffix, tensor in model[0].own().items():
        if suffix not in adapter.trained:
            assert torch.equal(tensor, tensor.bfloat16().float()), suffix


@pytest.mark.parametrize("name", OF_BASE)
def test_without_a_base_there_is_nothing_to_change(name):
    with pytest.raises(InvalidSetting, match=f"{name} .* of which drop_base leaves nothing"):
        compress_model(wide_network(), [rule("drop_base", "zeros", name, RANK)], ["*"])


@pytest.mark.parametrize("name", [*ADDED, "edora"])
def test_grouped_convolutions_are_refused_by_name(name):
    layer = nn.Conv2d(4, 4, 3, groups=2)
    assert any("there" in t for t in ADAPTERS.build(name).refusals({"there": layer}, 2))


def test_nola_is_what_its_seed_says_and_as_large_whatever_rank_and_width():
    deltas = [
        dense_delta("nola", attached("nola", moved=False, seed=seed)[1][0]) for seed in (0, 0, 1)
    ]
    assert not deltas[0].any()
    models = [attached("nola", seed=seed)[1] for seed in (0, 0, 1)]
    x = torch.randn(3, 16)
    assert torch.equal(models[0](x), models[1](x))
    assert not torch.allclose(models[0](x), models[2](x))
    adapter = ADAPTERS.build("nola")
    layouts = [adapter.layout({"l": (shape, r)}) for shape, r in (((9, 5), 1), ((99, 7), 6))]
    assert layouts[0] == layouts[1]


def test_block_lora_of_one_block_is_lora_and_names_what_it_cannot_split():
    _, model = attached("block_lora", blocks=1)
    own, x = model[0].own(), torch.randn(3, 16)
    expected = bare(model[0])(x) + ALPHA / RANK * x @ (own["B"] @ own["A"]).T
    torch.testing.assert_close(model(x), expected)
    adapter = ADAPTERS.build("block_lora", {"blocks": 4})
    layers = {"odd": nn.Linear(6, 8), "one": nn.Conv2d(1, 8, 3), "even": nn.Linear(8, 8)}
    [refused] = adapter.refusals(layers, 2)
    assert "odd" in refused
    assert "6" in refused

"""The bridge to PEFT: shared tensors, seeds, bytes, and what it refuses."""

import pytest
import torch
from adapter_layers import attached, delta_of, values
from networks import adapted, inputs, rule, wide_network
from torch import nn

from compression.adapters import ADAPTERS
from compression.artifact import deserialize, serialize
from compression.container import unpack_file
from compression.model import as_saved, compress_model
from compression.registry import InvalidSetting


def close(found, expected, tol=1e-5):
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


def test_layers_of_two_ranks_get_two_bases_that_come_back():
    rules = [
        rule("rtn", adapter="vera", rank=2, pattern="5"),
        rule("rtn", adapter="vera", rank=4, pattern="8"),
    ]
    model = compress_model(wide_network(), rules, ["5", "8"])
    bases = [values(model[i], "vera_A") for i in (5, 8)]
    assert [len(basis) for basis in bases] == [2, 4]
    again = deserialize(serialize(model), wide_network(3))
    assert torch.equal(again(inputs()), model(inputs()))


def test_vera_is_a_slice_of_the_shared_basis_between_two_diagonals():
    adapter = ADAPTERS.build("vera")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 24)).requires_grad_(False)
    attach_all(adapter, model, 4)
    a, b = (values(model[0], f"vera_{x}") for x in "AB")
    assert a.shape == (4, 32)
    assert b.shape == (24, 4)
    for layer in model:
        with torch.no_grad():
            layer.vera_lambda_b["default"].normal_()
        m, n = layer.base_layer.weight.shape
        d, outer = (values(layer, f"vera_lambda_{x}") for x in "db")
        close(delta_of(layer), outer[:, None] * b[:m] @ (d[:, None] * a[:, :n]))


def attach_all(adapter, model, rank):
    from compression.adapters import AdapterStart

    adapter.attach(model, {n: AdapterStart(rank, float(rank)) for n, _ in model.named_children()})


@pytest.mark.parametrize("shape", [(16, 32), (32, 16)])
@pytest.mark.parametrize("basis", ["dense", "sparse", "very_sparse"])
def test_randlora_sums_products_up_to_full_rank(basis, shape):
    adapter = ADAPTERS.build("randlora", {"basis": basis})
    layer = attached(adapter, shape=shape, rank=3, alpha=6.0)[0]
    a, b = values(layer, "randlora_A"), values(layer, "randlora_B")
    inner, outer = values(layer, "randlora_lambda"), values(layer, "randlora_gamma")
    assert a.shape == (3, 1, 16)
    assert b.shape == (32, 6, 3)
    parts = b.reshape(32, 3, 6)  # PEFT counts B's columns and A's rows in different orders
    total = sum(parts[..., j] @ (inner[:, j, None] * a[:, 0] * outer[j]) for j in range(6))
    close(delta_of(layer), 2.0 * (total.T if shape[0] < shape[1] else total), 1e-4)
    rank = torch.linalg.matrix_rank(delta_of(layer), atol=1e-4)
    # A column that is 0 in all of a sparse A stays 0.
    assert rank == min(16, int((a != 0).any(0).sum()))
    assert rank > 3
    if basis != "dense":
        share = {"sparse": 1 / 3, "very_sparse": 18**-0.5}[basis]
        assert abs((b != 0).float().mean() - share) < 0.1


def test_lily_shares_a_by_stride_and_b_by_shape():
    model = attached(ADAPTERS.build("lily", {"stride": 2}), 4, shape=(16, 16))
    firsts, seconds = ([id(getattr(x, f"lily_{w}")["default"].weight) for x in model] for w in "AB")
    assert len(set(firsts)) == 2
    assert firsts[0] == firsts[1] != firsts[2] == firsts[3]
    assert len(set(seconds)) == 1
    adapter = ADAPTERS.build("lily", {"stride": 2})
    layout = adapter.layout({str(i): ((16, 16), 4) for i in range(4)})
    assert sum(slot.nbytes for slot in layout.values()) == 4 * (2 * 4 * 16 + 2 * 4 * 16 + 4 * 2 * 4)


def test_lily_mixes_its_bs_by_the_router():
    layer = attached(ADAPTERS.build("lily", {"scaling": 3.0}))[0]
    a, b, router = (values(layer, f"lily_{part}") for part in ("A", "B", "router"))
    x = torch.randn(1, 32)
    share = (x @ a.T @ router.T).softmax(-1)[0]
    mixed = sum(p * part for p, part in zip(share, b.view(2, 4, 16), strict=True))
    close(layer(x), layer.base_layer(x) + 3.0 * x @ a.T @ mixed)


def test_vblora_is_made_of_mixes_of_one_bank():
    adapter = ADAPTERS.build("vblora", {"vector_length": 8})
    model = attached(adapter, 2)
    banks = {id(layer.vblora_vector_bank["default"]) for layer in model}
    assert len(banks) == 1
    layer = model[0]
    bank, parts = values(layer, "vblora_vector_bank"), {}
    for factor in "AB":
        logits = values(layer, f"vblora_logits_{factor}")
        top = logits.topk(2, -1)
        weights = torch.zeros_like(logits).scatter(-1, top.indices, top.values.softmax(-1))
        parts[factor] = weights @ bank
    a = parts["A"].flatten(1)
    b = parts["B"].transpose(1, 2).flatten(0, 1)
    close(delta_of(layer), b @ a)


@pytest.mark.parametrize("topk", [2, 4])
def test_vblora_starts_at_no_delta_and_can_leave_it(topk):
    model = attached(ADAPTERS.build("vblora", {"topk": topk, "bound": 1.0}), noise=0.0)
    x = torch.randn(5, 32)
    assert torch.equal(model(x), model[0].base_layer(x))
    model(x).square().sum().backward()
    assert model[0].vblora_logits_B["default"].grad.abs().max() > 1e-3
    assert model[0].vblora_vector_bank["default"].grad.abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "bytes_"), [("float32", 4), ("float16", 2)])
def test_vblora_ships_its_largest_logits_alone(dtype, bytes_):
    adapter = ADAPTERS.build("vblora", {"dtype": dtype, "topk": 4})
    model = adapted(adapter)
    before = model(inputs())
    with as_saved(model):
        data, expected = serialize(model), model(inputs())
    header, tensors = unpack_file(data, "it")
    assert all(entry.adapter.reduced for entry in header.compression.layers.values())
    sides = [64 + 32, 32 + 32]
    stored = sum(t.nbytes for key, t in tensors.items() if "vblora" in key)
    assert stored == bytes_ * 64 * 16 + (4 + 3 * bytes_) * 4 * sum(sides) // 16
    again = deserialize(data, wide_network(4))
    assert torch.equal(again(inputs()), expected)
    assert torch.equal(model(inputs()), before)  # what trains has all its logits still


REFUSED = [
    ("hra", {}, (16, 32), 3, "odd"),
    ("gralora", {"k": 2}, (16, 32), 3, "multiple of k = 2"),
    ("gralora", {"k": 3}, (15, 32), 3, "one of 1$"),
    ("c3a", {"block_size": 12}, (24, 32), 0, "one of 8, 4, 2, 1"),
    ("oft", {"block_size": 12}, (24, 32), 0, "32 inputs; one of 32, 16, 8, 4, 2, 1"),
    ("boft", {"block_size": 8, "factors": 3}, (24, 48), 0, "times 2.* = 4 .* one of: 12, 6, 4, 3"),
    ("boft", {"block_size": 3, "factors": 2}, (24, 48), 0, "must be even"),
    ("road", {"group_size": 10}, (16, 32), 0, "16 outputs"),
    ("road", {"group_size": 3}, (15, 32), 0, "must be even"),
    ("miss", {"variant": "bat"}, (16, 30), 4, "divide both sides; it may be one of 2, 1"),
    ("miss", {"variant": "mini", "mini_rank": 5}, (16, 30), 4, "mini_rank 5 must divide the 16"),
    ("fourierft", {"n_frequency": 513}, (16, 32), 0, "above its 512 weights"),
    ("waveft", {"n_frequency": 513}, (16, 32), 0, "above its 512 weights"),
    ("vblora", {"vector_length": 12}, (24, 32), 2, "may be one of 8, 4, 2, 1"),
    ("vblora", {"bank_size": 7}, (16, 32), 2, "bank_size 7 must be even"),
    ("lokr", {"factor": 0}, (16, 32), 2, "factor 0"),
]


@pytest.mark.parametrize(("name", "knobs", "shape", "rank", "reason"), REFUSED)
def test_what_does_not_fit_is_refused_with_layer_and_numbers(name, knobs, shape, rank, reason):
    adapter = ADAPTERS.build(name, knobs)
    model = nn.Sequential(nn.Linear(shape[1], shape[0]))
    with pytest.raises(InvalidSetting, match=f"(?s){name} cannot take '0'.*{reason}"):
        compress_model(model, [rule("rtn", adapter=adapter, rank=rank)], ["*"])
    with pytest.raises(InvalidSetting, match=f"(?s){name} cannot take '0'.*{reason}"):
        attached(adapter, shape=shape, rank=rank)


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("hra", {"stride": (1, 2)}),
        ("hra", {"kernel_size": (3, 1)}),
        ("hra", {"padding": "same"}),
        ("hra", {"dilation": 2}),
        ("loha", {"padding_mode": "circular"}),
        ("lokr", {"padding_mode": "reflect"}),
    ],
)
def test_convolutions_whose_settings_peft_overlooks_are_refused(name, odd):
    options = {"kernel_size": 3, "padding": 1, **odd}
    layer = nn.Conv2d(4, 4, **options)
    adapter = ADAPTERS.build(name)
    (text,) = [t for t in adapter.refusals({"there": layer}, 2) if next(iter(odd)) in t]
    assert "there" in text
    assert name in text


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"stride": (1, 2)}])
@pytest.mark.parametrize("name", ["loha", "lokr", "ia3"])
def test_convolutions_of_odd_settings_that_peft_heeds(name, options):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, **options))
    adapter = ADAPTERS.build(name)
    compress_model(model, [rule("int1", adapter=adapter, rank=2 if adapter.ranked else 0)], ["*"])
    x = torch.randn(2, 4, 8, 8)
    assert model(x).shape == model[0].base_layer(x).shape


BYTES = {
    "c3a": lambda m, n, r: 4 * m * n // 16,
    "fourierft": lambda m, n, r: 4 * 128 + 8,
    "waveft": lambda m, n, r: 4 * 128 + 8,
    "loha": lambda m, n, r: 8 * r * (m + n),
    "gralora": lambda m, n, r: 4 * r * (m + n),
    "miss": lambda m, n, r: 4 * r * m,
    "delora": lambda m, n, r: 4 * (r * (m + n) + n + 1),
    "shira": lambda m, n, r: 4 * r * (m + n) + 8,
    "oft": lambda m, n, r: 4 * n * 15 // 2,
    "boft": lambda m, n, r: 4 * (2 * n * 8 + m) + 8,
    "hra": lambda m, n, r: 4 * r * n,
    "psoft": lambda m, n, r: 4 * (r * (r - 1) // 2 + 2 * r + r * (m + n)),
    "road": lambda m, n, r: 4 * m,
    "ia3": lambda m, n, r: 4 * m,
    "vera": lambda m, n, r: 4 * (m + r) + 8,
    "randlora": lambda m, n, r: 4 * -(-min(m, n) // r) * (r + min(m, n)) + 8,
}


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize(("shape", "rank"), [((48, 32), 4), ((16, 64), 6), ((64, 64), 2)])
def test_stored_bytes_follow_their_formula(name, shape, rank):
    adapter = ADAPTERS.build(name)
    layout = adapter.layout({"a": (shape, rank)})
    assert sum(slot.nbytes for slot in layout.values()) == BYTES[name](*shape, rank)

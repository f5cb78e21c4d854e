"""What was published as LoRA-Compression, errors included, beside what is right."""

import math
from functools import partial

import pytest
import torch
from networks import generator, inputs, layer_stats, network, rule
from published_sizes import NOMINAL, RANKS, WAYS, size_of, weight_ratio

from compression import load, save
from compression.adapters import ADAPTERS
from compression.inits import INITS
from compression.kinds import bare
from compression.methods import METHODS
from compression.model import compress_model, trainable
from compression.packing import packed_bytes
from compression.registry import InvalidSetting
from study.config import parse_config
from study.space.baselines import Typical

SIGN = METHODS.build("sign")


def normal(*shape, std=1.0, seed=0):
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(method, weight):
    return float((weight - method.compress(weight).dense()).norm() / weight.norm())


# sign: no scale, and a third value.


@pytest.mark.parametrize("zeros", [0, 1, 12, 13, 300, 400])
def test_sign_has_three_values_and_counts_the_third(zeros):
    """Of 20 x 20 weights: up to 12 zeros as numbers of 4 bytes, above as a bitmap of 50 bytes."""
    weight = normal(20, 20)
    weight.view(-1)[torch.randperm(400, generator=generator())[:zeros]] = 0
    packed = SIGN.compress(weight)
    assert torch.equal(packed.dense(), weight.sign())
    assert packed.method.zeros == zeros
    assert packed.stored_bytes() == packed_bytes(400, 1) + min(4 * zeros, packed_bytes(400, 1))
    assert packed.nominal_bits() == 400  # the published count leaves the third value out


def test_the_error_of_signs_without_scale_is_many_times_the_weight():
    """``E(|w| - 1)^2 = s^2 - 2 s sqrt(2 / pi) + 1`` without; ``s^2 (1 - 2 / pi)`` at s mean |w|."""
    std, weight = 0.07, normal(1000, 512, std=0.07)
    bare = math.sqrt(std**2 - 2 * std * math.sqrt(2 / math.pi) + 1) / std
    assert bare == pytest.approx(13.5, abs=0.01)
    assert relative_error(SIGN, weight) == pytest.approx(bare, rel=0.005)
    scaled = math.sqrt(1 - 2 / math.pi)
    assert scaled == pytest.approx(0.60, abs=0.005)
    assert relative_error(METHODS.build("int1"), weight) == pytest.approx(scaled, rel=0.005)


# block_sparse: the largest by value, or by absolute value.


@pytest.mark.parametrize("tile", [(1, 16), (4, 4)], ids=str)
@pytest.mark.parametrize("keep", [1, 3])
def test_the_largest_by_value_loses_large_negative_weights(tile, keep):
    args = {"tile_rows": tile[0], "tile_cols": tile[1], "keep": keep}
    absolute = METHODS.build("block_sparse", args)
    signed = METHODS.build("block_sparse", args | {"largest": "signed"})
    for seed in range(10):
        weight = normal(12, 32, seed=seed)
        assert relative_error(absolute, weight) < relative_error(signed, weight)
        assert signed.compress(weight).stored_bytes() == absolute.compress(weight).stored_bytes()
        assert relative_error(absolute, weight.abs()) == relative_error(signed, weight.abs())
    weight[0, 5] = -100
    assert absolute.compress(weight).dense()[0, 5] == -100
    assert signed.compress(weight).dense()[0, 5] == 0


# paper: A random, B zero.


@pytest.mark.parametrize("rank", [2, 16, 64])
def test_paper_starts_at_the_compressed_weight_with_a_normal_a(rank):
    weight, method = normal(64, 4096, std=0.07), METHODS.build("int1")
    start = INITS.build("paper").start(weight, method.compress, rank, None, generator())
    assert not start.B.any()
    assert torch.equal(start.base.dense(), method.compress(weight).dense())
    error = 4 / math.sqrt(2 * start.A.numel())  # four standard errors of a standard deviation
    assert float(start.A.std()) == pytest.approx(rank**-0.5, rel=error)
    again = INITS.build("paper").start(weight, method.compress, rank, None, generator())
    assert torch.equal(start.A, again.A)
    other = torch.Generator().manual_seed(1)
    assert not torch.equal(
        start.A, INITS.build("paper").start(weight, method.compress, rank, None, other).A
    )


# lora: scaled by alpha, not by alpha / rank.


def adapted(scaling, alpha, rank, seed=0):
    """A network with random factors, the same whatever the scaling."""
    adapter = ADAPTERS.build("lora", {"scaling": scaling})
    model = compress_model(network(), [rule("int1", "paper", adapter, rank, alpha)], ["*"])
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=drawn))
    return model


def by_hand(model, scale):
    """The same network, dense: each weight is base + scale B A."""
    dense, layers = network(), model.compression.layers
    factors = ADAPTERS.build("lora").parameters(model, layers)
    for name in layers:
        b, a = (factors[f"{name}.lora_{k}"].detach().flatten(1) for k in "BA")
        base = bare(model.get_submodule(name)).weight
        dense.get_submodule(name).weight.data = base + scale * (b @ a).view_as(base)
    return dense


@pytest.mark.parametrize("alpha", [0.5, 8.0, 48.0])
def test_with_scaling_alpha_the_delta_is_alpha_b_a_in_every_layer(alpha, tmp_path):
    """Also where rank 10 is clamped, to 6, 5 and 7 of three layers."""
    model, x = adapted("alpha", alpha, rank=10), inputs()
    assert [entry.rank for entry in model.compression.layers.values()] == [6, 5, 10, 7]
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(model(x), by_hand(model, alpha)(x), **close)
    usual = adapted("alpha_over_rank", alpha, rank=10)
    torch.testing.assert_close(usual(x), by_hand(usual, alpha / 10)(x), **close)

    path = str(tmp_path / "m.safetensors")
    save(model, path)
    assert torch.equal(load(path, network())(x), model(x))


@pytest.mark.parametrize("rank", [1, 4, 10])
def test_of_rank_one_or_without_alpha_both_scalings_are_one(rank):
    for alpha in [None, 3.0] if rank == 1 else [None]:
        models = [adapted(s, alpha, rank) for s in ("alpha", "alpha_over_rank")]
        assert torch.equal(models[0](inputs()), models[1](inputs()))


# alpha: only where it sets something. A new init meets this with no new line here.


@pytest.mark.parametrize("name", INITS)
def test_alpha_is_free_exactly_where_the_delta_starts_at_zero(name):
    weight, stats = normal(12, 20), layer_stats((12, 20))
    compress = partial(METHODS.build("rtn", {"bits": 2}).compress, stats=stats)
    start = INITS.build(name).start(weight, compress, 3, stats, generator())
    assert bool((start.B @ start.A).any()) == INITS[name].fixes_alpha


ALPHA = (
    "task: digits\nspace:\n  method: rtn\n  adapter: lora\n  alpha: [8, 16]\n  rank: 2\n  init: {}"
)
FREE = [name for name in INITS if not INITS[name].fixes_alpha]


@pytest.mark.parametrize("name", INITS)
def test_alpha_is_searched_only_under_inits_that_leave_it_free(name):
    space = parse_config(ALPHA.format(f"[{', '.join(INITS)}]")).search_space()
    chosen = space.define(Typical({"init": name}))
    assert ("alpha" in chosen) == (name in FREE)
    (layers,) = space.to_trial(chosen, 0).layers
    assert layers.alpha == (8.0 if name in FREE else None)


@pytest.mark.parametrize("name", [name for name in INITS if name not in FREE])
def test_alpha_that_would_do_nothing_is_refused_with_the_reason(name):
    with pytest.raises(InvalidSetting) as config:
        parse_config(ALPHA.format(name), "c.yaml")
    (line,) = config.value.errors
    assert line == (
        f"c.yaml:2: space.alpha: has no effect under init {name}: starts at a delta of its own, "
        "at scale 1; leave it out"
    )


@pytest.mark.parametrize("name", FREE)
def test_alpha_alone_may_be_searched_under_a_free_init(name):
    space = parse_config(ALPHA.format(name)).search_space()
    assert space.params["alpha"].when == {"adapter": ("lora",)}
    assert space.params["alpha"].unless == {}


# The published table: every ratio is measured on the model it is of, none by a formula.

POINTS = [
    (compressor, way, rank, printed)
    for compressor, ways in WAYS.items()
    for way in ways
    for rank, printed in zip(RANKS, NOMINAL[compressor], strict=True)
]


@pytest.mark.parametrize(("compressor", "way", "rank", "printed"), POINTS)
def test_published_ratios_are_nominal_ones_and_a_few_percent_of_the_model(
    compressor, way, rank, printed
):
    size = size_of(WAYS[compressor][way], rank)
    assert f"{size.nominal_ratio:.2f}" == printed
    assert 1.0245 <= size.ratio <= 1.0445
    assert size.layer_ratio < weight_ratio(size) <= size.nominal_ratio


@pytest.mark.parametrize(
    ("compressor", "way", "rank", "expected"),
    [
        ("sparse", "corrected", 2, "13.12"),
        ("sparse", "corrected", 128, "2.23"),
        ("sparse", "as published", 128, "2.23"),
        ("int1", "corrected", 2, "26.22"),
        ("int1", "as published", 2, "26.91"),
    ],
)
def test_ratios_with_positions_and_scales(compressor, way, rank, expected):
    """4 bits for the position of one weight in 16; a scale of 16 bits a row; no zeros in W."""
    size = size_of(WAYS[compressor][way], rank)
    assert f"{weight_ratio(size):.2f}" == expected
    bias = 4 * 1000  # which stays: the ratio of the layer has it on both sides
    assert size.targets.untouched == size.dense_targets.untouched == bias
    assert size.dense_targets.total == 4 * 1000 * 512 + bias


def test_the_file_at_the_published_27x_is_4_percent_smaller():
    assert f"{size_of(WAYS['int1']['as published'], 2).ratio:.3f}" == "1.044"

"""Sparse methods: what each is defined by, and exact bytes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import layer_stats, network
from torch import nn

from compression.methods import METHODS, chain
from compression.methods.base import Scene
from compression.methods.sparsify.chita import Quadratic
from compression.methods.sparsify.dlp import layer_sparsities
from compression.methods.sparsify.lamp import lamp_scores
from compression.methods.sparsify.output_error import inverse_factor, largest_eigenvalue
from compression.methods.sparsify.positions import (
    bitmap_bytes,
    indices_bytes,
    pack_indices,
    pack_tiles,
    tile_bits,
    unpack_indices,
    unpack_tiles,
)
from compression.packing import packed_bytes
from compression.registry import InvalidSetting
from compression.second_moments import damped
from compression.stats import GradientStats, LayerStats

BY_INPUTS = ["wanda", "sparsegpt", "admm", "awp"]
UNSTRUCTURED = ["magnitude", "lamp", "global_magnitude", "chita", *BY_INPUTS]


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_error(weight, packed, stats):
    """``tr(E H E^T)``, and of each row, by its group."""
    moment = stats.inputs.second_moment
    change = (weight - packed.dense()).reshape(len(moment), -1, moment.shape[1]).double()
    return (change @ moment.double() * change).sum(2).flatten()


def formula(rows, columns, count):
    """Position bytes of k unstructured values, as the docstrings say."""
    cells = rows * columns
    coded = min(
        math.ceil(count * low / 8) + math.ceil((count + (cells - 1) // 2**low) / 8)
        for low in range(1, 17)
    )
    return min(math.ceil(cells / 8), coded)


# Positions.


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_indices_come_back(cells):
    mask = torch.tensor(cells)
    count = int(mask.sum())
    packed = pack_indices(mask)
    assert len(packed) == indices_bytes(len(mask), count)
    assert torch.equal(unpack_indices(packed, len(mask), count), mask)


@pytest.mark.parametrize(("cells", "count"), [(1 << 22, 1), (1 << 22, 40), (70000, 3)])
def test_indices_of_few_in_many_cells(cells, count):
    mask = torch.zeros(cells, dtype=torch.bool)
    mask[torch.randperm(cells, generator=torch.Generator().manual_seed(0))[:count]] = True
    mask[-1] = True
    packed = pack_indices(mask)
    assert torch.equal(unpack_indices(packed, cells, int(mask.sum())), mask)
    assert len(packed) <= bitmap_bytes(cells) / 100


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_indices_are_near_the_entropy(share):
    cells = 1 << 20
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert indices_bytes(cells, round(share * cells)) * 8 / cells <= entropy + 0.65 * share
    assert indices_bytes(cells, cells // 4 + 8) >= bitmap_bytes(cells)


@pytest.mark.parametrize(
    ("n", "m", "bits"), [(2, 4, 3), (1, 4, 2), (1, 2, 1), (4, 8, 7), (8, 16, 14), (15, 16, 4)]
)
def test_tiles_come_back(n, m, bits):
    chosen = torch.rand(50, m, generator=torch.Generator().manual_seed(0)).topk(n).indices
    mask = torch.zeros(50, m, dtype=torch.bool).scatter_(1, chosen, True)
    assert tile_bits(n, m) == bits
    packed = pack_tiles(mask, n)
    assert len(packed) == packed_bytes(50, bits)
    assert torch.equal(unpack_tiles(packed, n, m, 50), mask)


# Bytes and shares.


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(UNSTRUCTURED),
    st.integers(1, 9),
    st.integers(1, 20),
    st.floats(0, 1),
    st.sampled_from(["float32", "float16"]),
)
def test_unstructured_bytes_and_share(name, rows, columns, sparsity, dtype):
    weight = normal(rows, columns)
    method = build(name, sparsity=sparsity, value_dtype=dtype)
    packed = method.compress(weight, layer_stats((rows, columns)))
    cells = rows * columns
    wanted = max(1, round((1 - sparsity) * cells))
    if name in ("wanda", "admm", "awp"):  # the same in every row
        wanted = rows * max(1, round(wanted / rows))
    assert packed.method.kept == wanted
    assert packed.stored_bytes() == (
        wanted * (2 if dtype == "float16" else 4) + formula(rows, columns, wanted)
    )
    assert (packed.dense() != 0).sum() == wanted
    assert packed.method.coding in ("bitmap", "indices")
    assert packed.macs() == wanted


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["n_m", *BY_INPUTS]),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from([(2, 4), (1, 4), (3, 5), (8, 16), (15, 16), (5, 24)]),
)
def test_n_of_m_bytes_and_pattern(name, rows, columns, pattern):
    n, m = pattern
    args = {} if name == "n_m" else {"pattern": "n_m"}
    packed = build(name, n=n, m=m, **args).compress(
        normal(rows, columns), layer_stats((rows, columns))
    )
    tiles = rows * -(-columns // m)
    bits = (math.comb(m, n) - 1).bit_length()
    positions = math.ceil(tiles * bits / 8) if m <= 16 else formula(tiles, m, tiles * n)
    assert packed.stored_bytes() == 4 * tiles * n + positions
    kept = torch.nn.functional.pad(packed.dense() != 0, (0, -columns % m)).view(rows, -1, m).sum(2)
    real = torch.nn.functional.pad(torch.ones(columns), (0, -columns % m)).view(-1, m).sum(1)
    assert (kept == real.clamp(max=n)).all()


@pytest.mark.parametrize("coding", ["bitmap", "indices"])
@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}, {"pattern": "n_m", "m": 20, "n": 3}])
def test_a_coding_asked_for_changes_bytes_and_nothing_else(args, coding):
    weight, stats = normal(6, 23), layer_stats((6, 23))
    auto = build("wanda", **args).compress(weight, stats)
    asked = build("wanda", coding=coding, **args).compress(weight, stats)
    assert torch.equal(auto.dense(), asked.dense())
    assert auto.stored_bytes() <= asked.stored_bytes()
    assert asked.method.coding == coding


def test_the_smaller_coding_is_taken_and_named():
    weight = normal(40, 50)
    assert build("magnitude", sparsity=0.5).compress(weight).method.coding == "bitmap"
    assert build("magnitude", sparsity=0.9).compress(weight).method.coding == "indices"
    assert build("n_m").compress(weight).method.coding == "indices"


@pytest.mark.parametrize("name", UNSTRUCTURED)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5)])
def test_something_is_always_left(name, shape):
    packed = build(name, sparsity=1.0).compress(torch.ones(shape), layer_stats(shape))
    assert packed.dense().count_nonzero() >= 1
    assert packed.method.kept == (shape[0] if name in ("wanda", "admm", "awp") else 1)


def test_what_is_kept_is_not_known_before_compressing():
    with pytest.raises(InvalidSetting, match="known after"):
        build("magnitude").layout((4, 4))
    with pytest.raises(InvalidSetting, match="below m"):
        build("n_m", n=4, m=4)


# What is kept.


def test_magnitude_keeps_the_largest_as_they_are():
    weight = normal(7, 11)
    dense = build("magnitude", sparsity=0.7).compress(weight).dense()
    kept = dense != 0
    assert torch.equal(dense[kept], weight[kept])
    assert weight[kept].abs().min() >= weight[~kept].abs().max()


def test_two_of_four_are_the_largest_of_each_tile():
    weight = torch.tensor([[1.0, -9.0, 2.0, 3.0, 0.5, -4.0]])
    assert build("n_m").compress(weight).dense().tolist() == [[0, -9, 0, 3, 0.5, -4]]


def test_wanda_keeps_the_largest_products_of_each_row():
    weight, stats = normal(5, 12), layer_stats((5, 12))
    score = weight.abs() * stats.inputs.second_moment[0].diagonal().sqrt()
    kept = build("wanda", sparsity=0.75).compress(weight, stats).dense() != 0
    assert (kept.sum(1) == 3).all()
    assert torch.equal(kept, score >= score.topk(3, dim=1).values[:, -1:])


def test_wanda_keeps_the_largest_products_of_a_layer():
    weight, stats = normal(6, 2, 3, 3), layer_stats((6, 2, 3, 3), groups=3)
    sizes = stats.inputs.second_moment.diagonal(dim1=1, dim2=2).sqrt().repeat_interleave(2, 0)
    score = (weight.flatten(1).abs() * sizes).flatten()
    packed = build("wanda", sparsity=0.7, across="layer").compress(weight, stats)
    kept = packed.dense().flatten() != 0
    assert kept.sum() == round(0.3 * 108)
    assert torch.equal(kept, score >= score.sort().values[-32])


@pytest.mark.parametrize("name", ["wanda", "admm", "awp"])
@pytest.mark.parametrize("args", [{}, {"pattern": "n_m", "n": 1}])
def test_groups_are_pruned_each_by_its_own_inputs(name, args):
    """A grouped convolution is as its groups are one by one."""
    weight, stats = normal(6, 2, 3, 3), layer_stats((6, 2, 3, 3), groups=3)
    whole = build(name, **args).compress(weight, stats).dense()
    for g in range(3):
        part = slice(2 * g, 2 * g + 2)
        own = type(stats.inputs)(
            **{
                k: getattr(stats.inputs, k)[g : g + 1]
                for k in ("second_moment", "mean", "magnitude")
            },
            count=stats.inputs.count,
        )
        alone = build(name, **args).compress(weight[part], LayerStats(own)).dense()
        torch.testing.assert_close(whole[part], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("args", [{}, {"sparsity": 0.8}, {"pattern": "n_m"}])
@pytest.mark.parametrize("groups", [1, 4])
def test_making_up_for_what_is_pruned_pays(args, groups):
    """On correlated inputs: sparsegpt, admm and awp against wanda, wanda against magnitude."""
    shape = (32, 128)
    weight, stats = normal(*shape), layer_stats(shape, groups)
    error = {
        name: output_error(weight, build(name, **args).compress(weight, stats), stats).sum()
        for name in BY_INPUTS
    }
    plain = build("n_m") if "pattern" in args else build("magnitude", **args)
    assert error["wanda"] < output_error(weight, plain.compress(weight), stats).sum()
    for name in ("sparsegpt", "admm", "awp"):
        assert error[name] < 0.9 * error["wanda"]


# sparsegpt.


def test_the_factor_is_that_of_the_inverse():
    moment = layer_stats((4, 12), groups=2).inputs.second_moment.double()
    factor = inverse_factor(moment, 0.01)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(
        factor.transpose(1, 2) @ factor, damped(moment, 0.01).inverse(), atol=1e-6, rtol=1e-6
    )
    flat = torch.ones(1, 200, 200)  # of rank one: too little damping leaves no factor
    assert torch.isfinite(inverse_factor(flat, 1e-12)).all()


def test_sparsegpt_with_inputs_that_are_not_correlated_is_magnitude():
    weight = normal(8, 16)
    stats = layer_stats((8, 16))
    white = type(stats.inputs)(torch.eye(16)[None], torch.zeros(1, 16), torch.ones(1, 16), 99)
    by_sparsegpt = build("sparsegpt").compress(weight, LayerStats(white)).dense()
    assert torch.equal(by_sparsegpt, build("magnitude").compress(weight).dense())


def test_sparsegpt_values_are_those_of_its_definition():
    """Column by column in float64, the inverse shrunk step by step as in the OBS derivation."""
    weight, stats = normal(5, 12), layer_stats((5, 12))
    packed = build("sparsegpt", block=4, damping=0.01).compress(weight, stats)
    kept = packed.dense() != 0
    moment = stats.inputs.second_moment[0].double()
    moment = moment + 0.01 * moment.diagonal().mean() * torch.eye(12)
    left = weight.double().clone()
    for j in range(12):
        inverse = moment[j:, j:].inverse()
        error = torch.where(kept[:, j], 0, left[:, j] / inverse[0, 0])
        left[:, j:] -= error[:, None] * inverse[0]
    torch.testing.assert_close(packed.dense(), (left * kept).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BY_INPUTS)
def test_dead_and_few_inputs(name):
    """More columns than inputs seen, some of them never alive, one layer with none at all."""
    x = normal(3, 20)
    x[:, ::3] = 0
    weight = normal(6, 20)
    for inputs in (x, torch.zeros(3, 20)):
        stats = layer_stats((6, 20)).inputs
        moments = type(stats)(
            (inputs.T @ inputs / 3)[None], inputs.mean(0)[None], inputs.abs().mean(0)[None], 3
        )
        dense = build(name).compress(weight, LayerStats(moments)).dense()
        assert torch.isfinite(dense).all()
        assert dense.abs().max() < 1e3


# admm, awp.


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}, {"sparsity": 0.8}])
def test_admm_comes_to_the_best_values_under_its_mask(args):
    """``H_SS w_S = (H w)_S`` in every row."""
    weight, stats = normal(6, 16), layer_stats((6, 16))
    method = build("admm", iterations=3000, rounds=1, rho=0.1, **args)
    dense = method.compress(weight, stats).dense()
    moment = stats.inputs.second_moment[0].double()
    for row, wanted in zip(dense, weight.double(), strict=True):
        s = row != 0
        best = torch.linalg.solve(moment[s][:, s], (moment @ wanted)[s])
        torch.testing.assert_close(row[s], best.float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}])
@pytest.mark.parametrize(("iterations", "rounds"), [(1, 1), (20, 1), (20, 15), (3, 15)])
def test_admm_is_no_worse_than_its_mask_alone(args, iterations, rounds):
    weight, stats = normal(16, 32), layer_stats((16, 32))
    method = build("admm", iterations=iterations, rounds=rounds, **args)
    packed = method.compress(weight, stats)
    mask = packed.dense() != 0
    moment = stats.inputs.second_moment[0].double()
    plain = (weight * ~mask).double()
    assert (output_error(weight, packed, stats) <= (plain @ moment * plain).sum(1) + 1e-5).all()
    if rounds == 1:
        wanda = build("wanda", **args).compress(weight, stats)
        assert torch.equal(mask, wanda.dense() != 0)


@pytest.mark.parametrize("args", [{}, {"pattern": "n_m"}])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_awp_never_rises(args, step):
    weight, stats = normal(16, 32), layer_stats((16, 32))
    before = output_error(weight, build("wanda", **args).compress(weight, stats), stats)
    for iterations in (1, 2, 4, 8, 64):
        packed = build("awp", iterations=iterations, step=step, **args).compress(weight, stats)
        after = output_error(weight, packed, stats)
        assert (after <= before * (1 + 1e-5)).all()
        before = after


def test_the_largest_eigenvalue_is_met_from_below():
    moment = layer_stats((4, 24), groups=3).inputs.second_moment
    exact = torch.linalg.eigvalsh(moment)[:, -1]
    found = largest_eigenvalue(moment).flatten()
    assert (found <= exact * (1 + 1e-5)).all()
    assert (found >= exact * 0.98).all()


# chita.


def single_gradients(samples):
    return LayerStats(None, GradientStats(samples.mean(0), torch.eye(samples.shape[1]), samples))


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
@pytest.mark.parametrize("shape", [(4, 6), (16, 32), (40, 40)])
def test_chita_is_no_worse_than_magnitude(shape, ridge, sparsity):
    weight, samples = normal(*shape), normal(8, *shape, seed=1) * normal(*shape, seed=2).abs()
    model = Quadratic.of(samples, weight.flatten(), ridge)
    values = {
        name: build(name, sparsity=sparsity, **args).compress(weight, single_gradients(samples))
        for name, args in {"magnitude": {}, "chita": {"ridge": ridge}}.items()
    }
    kept = values["chita"].method.kept
    assert kept == values["magnitude"].method.kept
    objective = {name: model.objective(p.dense().flatten()) for name, p in values.items()}
    assert objective["chita"] < objective["magnitude"]


def test_chita_values_are_best_on_their_support():
    weight, samples = normal(4, 6), normal(8, 4, 6, seed=1)
    dense = build("chita", ridge=0.1).compress(weight, single_gradients(samples)).dense().flatten()
    model = Quadratic.of(samples, weight.flatten(), 0.1)
    assert model.gradient(dense)[dense != 0].abs().max() < 1e-4
    hessian = samples.flatten(1).T @ samples.flatten(1) / 8
    hessian += 0.1 * hessian.diagonal().mean() * torch.eye(24)
    change = dense - weight.flatten()
    assert model.objective(dense) == pytest.approx(float(change @ hessian @ change) / 2, rel=1e-4)


def test_chita_without_gradients_to_speak_of_is_magnitude():
    weight = normal(4, 6)
    packed = build("chita").compress(weight, single_gradients(torch.zeros(8, 4, 6)))
    assert torch.equal(packed.dense(), build("magnitude").compress(weight).dense())


# The whole model.


def scene(model, needs=()):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    stats = {
        n: layer_stats(tuple(m.weight.shape), needs=needs, seed=i)
        for i, (n, m) in enumerate(layers.items())
    }
    return Scene(model, layers, stats if needs else {})


def kept_and_size(plan, where):
    kept = [plan.specs[name].compress(m.weight).method.kept for name, m in where.layers.items()]
    return torch.tensor(kept), torch.tensor([m.weight.numel() for m in where.layers.values()])


@pytest.mark.parametrize("name", ["lamp", "global_magnitude"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.95, 1.0])
def test_a_shared_budget_is_met_exactly(name, sparsity):
    where = scene(network())
    args = {"floor": 0.0} if name == "global_magnitude" else {}
    kept, sizes = kept_and_size(build(name, sparsity=sparsity, **args).plan(where), where)
    assert (kept >= 1).all()
    assert kept.sum() == max(round((1 - sparsity) * int(sizes.sum())), len(sizes))


def test_global_magnitude_is_one_threshold_over_all_layers():
    where = scene(network())
    plan = build("global_magnitude", sparsity=0.6, floor=0.0).plan(where)
    pairs = [(m.weight, plan.specs[n].compress(m.weight).dense()) for n, m in where.layers.items()]
    least = min(w[d != 0].abs().min() for w, d in pairs)
    most = max(w[d == 0].abs().max() for w, d in pairs if (d == 0).any())
    assert most <= least


@pytest.mark.parametrize("floor", [0.05, 0.3, 1.0])
def test_global_magnitude_leaves_every_layer_its_floor(floor):
    model = network()
    with torch.no_grad():
        model[6].weight *= 1e-3
    where = scene(model)
    kept, sizes = kept_and_size(
        build("global_magnitude", sparsity=0.8, floor=floor).plan(where), where
    )
    floors = (floor * sizes).round()
    assert (kept >= floors).all()
    assert kept[2] == floors[2]
    assert kept.sum() == max(round(0.2 * int(sizes.sum())), int(floors.sum()))


def test_lamp_scores_are_those_of_the_definition():
    weight = normal(50)
    squares = weight.double().square()
    wanted = torch.stack([s / squares[squares >= s].sum() for s in squares])
    torch.testing.assert_close(lamp_scores(weight), wanted.sort(descending=True).values.float())
    assert lamp_scores(weight)[0] == 1


def test_lamp_empties_no_layer_of_zeros_or_of_tiny_weights_and_knows_no_scale():
    model = network()
    before, sizes = kept_and_size(build("lamp", sparsity=0.7).plan(scene(model)), scene(model))
    with torch.no_grad():
        model[0].weight *= 1e-4
        model[6].weight *= 1e3
    after, _ = kept_and_size(build("lamp", sparsity=0.7).plan(scene(model)), scene(model))
    assert (before - after).abs().max() <= 1
    with torch.no_grad():
        model[3].weight.zero_()
    kept, _ = kept_and_size(build("lamp", sparsity=0.7).plan(scene(model)), scene(model))
    assert kept[1] == 1
    assert kept.sum() == round(0.3 * int(sizes.sum()))


# dlp.


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(2, 5000)), min_size=1, max_size=8),
    st.floats(0, 0.999),
    st.floats(0, 0.5),
)
def test_dlp_meets_the_target_and_prunes_the_important_less(layers, target, alpha):
    importances, sizes = (torch.tensor(x, dtype=torch.float64) for x in zip(*layers, strict=True))
    found = layer_sparsities(importances, sizes, target, alpha)
    reachable = min(target, float(1 - len(sizes) / sizes.sum()))
    assert float(found @ sizes / sizes.sum()) == pytest.approx(reachable, abs=1e-9)
    assert (found >= 0).all()
    assert (found <= 1 - 1 / sizes).all()
    free = (found > 0) & (found < 1 - 1 / sizes)
    by_importance = found[free][importances[free].argsort()]
    assert (by_importance.diff() <= 1e-9).all()
    if len(by_importance):
        assert by_importance.max() - by_importance.min() <= 2 * alpha + 1e-9


@pytest.mark.parametrize("local", ["wanda", "magnitude", "sparsegpt"])
def test_dlp_plans_for_its_local_method(local):
    where = scene(network(), needs=("inputs",))
    even = build("dlp", local=local, alpha=0.0, sparsity=0.6).plan(where)
    assert all(s == pytest.approx(0.6) for s in (m.sparsity for m in even.specs.values()))
    plan = build("dlp", local=local, alpha=0.2, sparsity=0.6).plan(where)
    assert {m.name for m in plan.specs.values()} == {local}
    sparsities = torch.tensor([m.sparsity for m in plan.specs.values()])
    sizes = torch.tensor([float(m.weight.numel()) for m in where.layers.values()])
    assert float(sparsities @ sizes / sizes.sum()) == pytest.approx(0.6, abs=1e-5)
    medians = torch.stack(
        [
            (m.weight.flatten(1).abs() * where.stats[n].inputs.root_mean_square()).median()
            for n, m in where.layers.items()
        ]
    )
    assert sparsities.argmax() == medians.argmin()
    assert sparsities.max() - sparsities.min() == pytest.approx(0.4, abs=1e-5)
    weight = normal(6, 8)
    assert build("dlp", local=local).compress(weight, layer_stats((6, 8))).method.name == local


@pytest.mark.parametrize(("local", "reached"), [("wanda", 8 / 9), ("sparsegpt", 8 / 9)])
def test_dlp_says_what_depthwise_layers_keep_it_from(local, reached):
    layer, shape = nn.Conv2d(20, 20, 3, groups=20), (20, 1, 3, 3)
    stats = {"": layer_stats(shape, groups=20)}
    where = Scene(layer, {"": layer}, stats)
    plan = build("dlp", local=local, sparsity=0.95).plan(where)
    assert "sparsity 0.889 of 0.95 asked" in plan.notes[0]
    dense = plan.specs[""].compress(layer.weight.detach(), stats[""]).dense()
    assert float((dense == 0).float().mean()) == pytest.approx(reached)
    assert not build("dlp", local="magnitude", sparsity=0.95).plan(where).notes


@pytest.mark.parametrize("name", UNSTRUCTURED)
@pytest.mark.parametrize("args", [{}, {"sparsity": 0.95}, {"kept": 50}])
@pytest.mark.parametrize(
    ("shape", "groups"), [((20, 1, 3, 3), 20), ((6, 2, 3, 3), 3), ((7, 11), 1)]
)
def test_what_is_reached_is_known_before(name, args, shape, groups):
    method = build(name, **args)
    packed = method.compress(normal(*shape), layer_stats(shape, groups))
    assert packed.method.kept == method.reached(shape, groups)


# Chains.


@pytest.mark.parametrize(
    ("name", "args", "matrix"),
    [
        ("n_m", {}, (6, 16)),
        ("wanda", {"sparsity": 0.75}, (1, 48)),
        ("magnitude", {"sparsity": 0.25}, (2, 72)),
        ("magnitude", {"kept": 7}, (1, 7)),
        ("magnitude", {"kept": 131}, (2, 66)),
        ("block_sparse", {"tile_rows": 2, "keep": 3}, (3, 24)),
    ],
)
def test_values_of_sparse_weights_can_be_stored_in_fewer_bits(name, args, matrix):
    weight, stats = normal(6, 32), layer_stats((6, 32))
    alone = build(name, **args).compress(weight, stats)
    assert alone.method.inner((6, 32)) == {"values": matrix}
    rtn = build("rtn", bits=8)
    both = chain([build(name, **args), rtn]).compress(weight, stats)
    kept = alone.state()["values"]
    values = rtn.compress(
        torch.cat([kept, torch.zeros(math.prod(matrix) - len(kept))]).view(matrix)
    )
    indices = alone.state()["indices"]
    assert both.stored_bytes() == values.stored_bytes() + indices.nbytes
    dense = both.dense()
    assert (dense[alone.dense() == 0] == 0).all()
    torch.testing.assert_close(dense, alone.dense(), atol=0.03, rtol=0)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7, 0.9, 0.99])
def test_a_scale_serves_few_values_whatever_their_number(sparsity):
    """The greatest common divisor of 707789 values and 512 rows is 1: one scale for the layer."""
    method = build("magnitude").replace(kept=round((1 - sparsity) * 512 * 4608))
    runs, width = method.inner((512, 4608))["values"]
    assert width <= 128
    assert method.kept <= runs * width < method.kept + 128

"""Sparse methods that decide over all layers together, and what others reach of their share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import layer_stats, network
from sparse_helpers import UNSTRUCTURED, build, normal
from torch import nn

from compression.methods.base import Scene
from compression.methods.sparsify.dlp import layer_sparsities
from compression.methods.sparsify.lamp import lamp_scores


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

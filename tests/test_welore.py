"""Ranks by one threshold on the singular values of all layers."""

import pytest
import torch
from networks import network, rule
from torch import nn

from compression.adapters import ADAPTERS
from compression.artifact import deserialize, serialize
from compression.methods import METHODS
from compression.methods.base import Scene, matrix_shape
from compression.methods.low_rank.welore import shares
from compression.model import as_saved, compress_model, trainable


def scene(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    return Scene(model, layers)


def build(**args):
    return METHODS.build("welore", args)


def relative(layer):
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    return values / values[0]


def ranks(plan, where):
    """The ranks by layer, of those that are factored."""
    return {name: spec.rank for name, spec in plan.specs.items() if spec.name == "svd"}


def stretched(seed=0):
    """Layers whose spectra fall at different speeds."""
    model = network(seed)
    with torch.no_grad():
        for power, name in enumerate(scene(model).layers):
            weight = model.get_submodule(name).weight
            u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            s = torch.linspace(1, 0.2, len(s)) ** (power + 1)
            weight.copy_(((u * s) @ vh).view_as(weight))
    return model


@pytest.mark.parametrize("reduction", [0.2, 0.5, 0.8])
def test_one_threshold_drops_its_share_of_all_singular_values(reduction):
    where = scene(stretched())
    found = {name: relative(layer) for name, layer in where.layers.items()}
    total = sum(map(len, found.values()))
    given = dict(zip(found, build(reduction=reduction)._ranks(weights(where)), strict=True))
    assert sum(given.values()) == total - round(reduction * total)
    kept = [values[: given[name]] for name, values in found.items()]
    cut = [values[given[name] :] for name, values in found.items()]
    assert torch.cat(cut).max() <= torch.cat(kept).min() + 1e-6
    assert len(set(given.values())) > 1


def weights(where):
    return {name: layer.weight for name, layer in where.layers.items()}


def test_every_layer_keeps_its_first_direction_and_zeros_come_last():
    model = network()
    with torch.no_grad():
        model[6].weight.zero_()
    where = scene(model)
    given = build(reduction=1.0)._ranks(weights(where))
    assert given == [1] * len(given)
    assert shares(torch.zeros(3, 4)).tolist() == [float("inf"), 0, 0]


@pytest.mark.parametrize("reduction", [0.1, 0.4, 0.7])
def test_layers_are_factored_exactly_where_factors_are_smaller(reduction):
    where = scene(stretched())
    method = build(reduction=reduction)
    plan = method.plan(where)
    for (name, layer), rank in zip(
        where.layers.items(), method._ranks(weights(where)), strict=True
    ):
        rows, columns = matrix_shape(tuple(layer.weight.shape))
        smaller = rank * (rows + columns) < rows * columns
        assert (plan.specs[name].name == "svd") is smaller
        assert any(f" {name} stays" in note for note in plan.notes) is not smaller
        if smaller:
            packed = plan.specs[name].compress(layer.weight.detach())
            assert packed.stored_bytes() == 4 * rank * (rows + columns)
    assert set(ranks(plan, where)) != set(where.layers) or reduction > 0.1


def test_a_smaller_dense_share_leaves_more_layers_dense():
    where = scene(stretched())
    few, many = (
        ranks(build(reduction=0.7, dense_share=share).plan(where), where) for share in (0.3, 1.0)
    )
    assert few.keys() < many.keys()
    assert all(many[name] == rank for name, rank in few.items())


def test_the_scale_of_a_layer_changes_nothing():
    model = stretched()
    before = ranks(build(reduction=0.7).plan(scene(model)), None)
    with torch.no_grad():
        model[6].weight *= 1e3
        model[0].weight *= 1e-3
    assert ranks(build(reduction=0.7).plan(scene(model)), None) == before


def test_dense_layers_are_exact_and_untrained_without_an_adapter():
    dense = stretched()
    model = compress_model(stretched(), [rule("welore")], ["*"])
    left = [name for name in scene(dense).layers if name not in model.compression.layers]
    assert left
    for name in left:
        kept = model.get_submodule(name).weight
        assert torch.equal(kept, dense.get_submodule(name).weight)
    assert not trainable(model)


def test_a_file_of_factored_and_dense_layers_comes_back():
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8)
    model = compress_model(
        stretched(), [rule("welore", adapter=ADAPTERS.build("lora"), rank=2)], ["*"]
    )
    with as_saved(model):
        data, expected = serialize(model), model(x)
    assert torch.equal(deserialize(data, network(seed=9))(x), expected)

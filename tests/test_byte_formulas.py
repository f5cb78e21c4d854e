"""Stored bytes are those that the docstrings state, for every method and for chains."""

import pytest
import torch
from byte_formulas import DELEGATING, FORMULAS, formula
from chain_values import VALUES
from networks import calibration, fit, layer_stats, network, pattern_for, rule, variants

from compression.layers import packed_of
from compression.methods import METHODS, chain
from compression.methods.structured.structural import Structural
from compression.model import compress_model
from compression.rules import target_layers

SHAPES = [(7, 13), (64, 48), (6, 2, 3, 3), (1, 9), (9, 1), (3, 1, 1, 1)]
CHAINS = [
    ("svd", "rtn"),
    ("svd", "nf4"),
    ("svd", "n_m"),
    ("svd", "n_m", "rtn"),
    ("n_m", "rtn"),
    ("magnitude", "hqq"),
    ("wanda", "rtn"),
    ("block_sparse", "ternary"),
    ("dsformer", "fp4"),
    ("kronecker", "int1"),
    ("tucker2", "rtn"),
]


def weight_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def agrees(method, shape):
    packed = method.compress(weight_of(shape), layer_stats(shape))
    coding = getattr(method, "coding", "auto")
    assert packed.stored_bytes() == formula(packed.method, shape, coding), (packed.method, shape)


def test_every_method_has_a_formula():
    assert set(METHODS) == {*FORMULAS, *DELEGATING}
    assert {*VALUES, *DELEGATING} == {name for name in METHODS if leaves(name)}


def leaves(name):
    """Whether a method leaves something for the next in a chain, dense layers apart."""
    method = METHODS.build(name)
    if name == "svd_cascade":
        method = method.replace(factor_bits=32)
    return method.may_go_first and not method.structural


@pytest.mark.parametrize("method", variants(METHODS), ids=str)
def test_bytes_are_the_formula(method):
    for shape in SHAPES:
        agrees(method, shape)


@pytest.mark.parametrize("name", [name for name in METHODS if leaves(name)])
def test_bytes_of_a_chain_are_the_formula(name):
    first = METHODS.build(name)
    if name == "svd_cascade":
        first = first.replace(factor_bits=16)
    for shape in SHAPES:
        agrees(chain([first, METHODS.build("rtn", {"bits": 3, "mode": "asymmetric"})]), shape)


@pytest.mark.parametrize("names", CHAINS, ids="+".join)
def test_bytes_of_other_chains_are_the_formula(names):
    for shape in SHAPES:
        agrees(chain([METHODS.build(name) for name in names]), shape)


def kept(model):
    """Bytes of the weights of a structural method's layers, by what stays of them."""
    return {
        name: (layer.weight.nbytes, formula(METHODS.build("none"), tuple(layer.weight.shape)))
        for name, layer in target_layers(model, ["*"]).items()
    }


def test_what_a_structural_method_leaves_is_dense():
    model = network()
    before = sum(stored for stored, _ in kept(model).values())
    compress_model(model, [rule("channels")], ["*"], calibration=calibration())
    assert sum(stored for stored, _ in kept(model).values()) < before
    assert all(stored == said for stored, said in kept(model).values())


@pytest.mark.parametrize("name", [n for n in METHODS if not issubclass(METHODS[n], Structural)])
def test_planned_over_a_model_bytes_are_the_formula(name):
    model, pattern = network(), pattern_for(name)
    shapes = {k: tuple(v.weight.shape) for k, v in target_layers(model, [pattern]).items()}
    adapter = ("none", 0) if fit(name, "none") else ("lora", 2)
    made = rule(name, "zeros", *adapter, pattern=pattern)
    compress_model(model, [made], ["*"], calibration=calibration())
    for layer, shape in shapes.items():
        found = model.get_submodule(layer)
        packed = packed_of(found)
        stored = packed.stored_bytes() if packed else found.weight.nbytes
        assert stored == formula(packed.method if packed else METHODS.build("none"), shape), layer

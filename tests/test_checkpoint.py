"""Training state goes to bytes and back without loss."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.checkpoint import State, flatten, unflatten

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


def tensor(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
tensors = st.builds(tensor, shapes, st.sampled_from(DTYPES), st.integers(0, 99))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | tensors
)
keys = st.integers() | st.text(max_size=5) | st.sampled_from(["$tensor", "/", "#1", ".1", "1"])
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


@given(trees)
def test_a_tree_survives_flattening_and_bytes(tree):
    state = flatten(tree)
    assert same(unflatten(state), tree)
    assert same(unflatten(State.from_bytes(state.to_bytes())), tree)


def test_paths_that_read_alike_are_kept_apart():
    tree = {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}, 1: torch.ones(1), "1": torch.zeros(1)}
    assert same(unflatten(flatten(tree)), tree)


def test_tuples_come_back_as_lists():
    assert unflatten(flatten({"betas": (0.9, 0.999)})) == {"betas": [0.9, 0.999]}


def test_a_state_does_not_change_with_its_source():
    weight = torch.zeros(3)
    state = flatten({"weight": weight})
    weight.add_(1)
    assert torch.equal(unflatten(state)["weight"], torch.zeros(3))


def test_a_tensor_that_stands_twice_and_a_strided_one_are_stored():
    weight = torch.arange(6.0).reshape(2, 3)
    tree = {"a": weight, "b": weight, "c": weight.T, "d": weight[:, 1]}
    assert same(unflatten(State.from_bytes(flatten(tree).to_bytes())), tree)


def test_an_optimizer_s_state_survives():
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    again = unflatten(State.from_bytes(flatten(saved).to_bytes()))
    assert list(again["state"]) == [0]
    assert same(again["state"], copy.deepcopy(saved["state"]))


@pytest.mark.parametrize("leaf", [{1, 2}, object(), b"bytes", 1j])
def test_what_cannot_be_stored_is_named(leaf):
    with pytest.raises(TypeError, match=rf"/a/1: {type(leaf).__name__} can't be stored"):
        flatten({"a": [0, leaf]})

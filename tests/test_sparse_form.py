"""Sparse methods: how positions and values are stored, in exact bytes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import layer_stats
from sparse_helpers import BY_INPUTS, UNSTRUCTURED, build, formula, normal
from torch.overrides import TorchFunctionMode

from compression.methods import METHODS, chain
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


class Placed(TorchFunctionMode):
    """Counts new tensors made without saying on which device, which would not be the weight's."""

    FACTORIES = (torch.zeros, torch.ones, torch.full, torch.arange, torch.eye, torch.tensor)

    def __init__(self):
        super().__init__()
        self.lost = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.FACTORIES and (kwargs or {}).get("device") is None:
            self.lost.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["n_m", "block_sparse", *UNSTRUCTURED])
@pytest.mark.parametrize("coding", ["bitmap", "indices"])
def test_all_tensors_are_made_where_the_weight_is(name, coding):
    args = {"coding": coding} if "coding" in METHODS[name].knobs() else {}
    patterns = [{}, {"pattern": "n_m"}] if name in BY_INPUTS else [{}]
    weight, stats = normal(6, 16), layer_stats((6, 16))
    for pattern in patterns:
        method = build(name, **args, **pattern)
        method.compress(weight, stats)  # a table of choices is made once, and moved when used
        with Placed() as placed:
            method.compress(weight, stats).dense()
        assert not placed.lost


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

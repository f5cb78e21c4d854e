"""Every byte accounted for, and every multiply-accumulate."""

import itertools
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    COMMON,
    SINGLE,
    TARGETS,
    WHOLE,
    calibration,
    fit,
    inputs,
    macs_of,
    network,
    pattern_for,
    rule,
)
from torch import nn

from compression.adapters import ADAPTERS
from compression.artifact import save, serialize
from compression.container import RESERVED, file_bytes, pack_file
from compression.methods import METHODS
from compression.model import compress_model, target_layers
from compression.rules import Compression
from compression.size import PARTS, measure


@pytest.mark.parametrize(
    ("method", "adapter"), [pair for pair in itertools.product(WHOLE, COMMON) if fit(*pair)]
)
def test_measure_is_the_file_and_the_formula(method, adapter, tmp_path):
    rank = 0 if adapter == "none" else 3
    made = rule(method, "zeros", adapter, rank, pattern=pattern_for(method))
    rest = METHODS.build("cast")
    model = compress_model(network(), [made], TARGETS, rest=rest, calibration=calibration())
    path, about = tmp_path / "model.safetensors", {"trial": "x"}
    save(model, str(path), about)
    size = measure(model, TARGETS, about)
    assert size.file_bytes == os.stat(path).st_size == len(serialize(model, about))

    plugin = ADAPTERS.build(adapter)
    expected = dict.fromkeys(PARTS, 0)
    nominal = 0
    for name, layer in target_layers(network(), TARGETS).items():
        shape = tuple(layer.weight.shape)
        entry = model.compression.layers[name]
        for slot in entry.method.layout(shape).values():
            expected[slot.part] += slot.nbytes
        nominal += entry.method.nominal_bits(shape)
        if entry.rank:
            nominal += plugin.nominal_bits({name: (shape, entry.rank)})
            for slot in plugin.layout({name: (shape, entry.rank)}).values():
                expected[slot.part] += slot.nbytes
        expected["untouched"] += 0 if layer.bias is None else 2 * layer.bias.numel()
    assert size.targets == expected
    assert size.nominal_bits == nominal

    norm = 2 * 4 * 6 + 8  # BatchNorm: four float16 vectors of six, one int64
    assert sum(size.model.values()) - size.model["header"] == sum(expected.values()) + norm
    assert size.model["untouched"] == expected["untouched"] + norm


DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.int32,
    torch.float32, torch.float64, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            lambda name: name != RESERVED
        ),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    )
)
def test_the_length_of_a_file_is_known_without_writing_it(tensors):
    made = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    done, about = Compression(), {"remark": 'with "quotes", \\ and \u00e9'}
    assert file_bytes(made, done, about) == len(pack_file(made, done, about))


def test_dense_and_none_are_measured_alike():
    dense = measure(network(), TARGETS)
    none = measure(compress_model(network(), [rule()], TARGETS), TARGETS)
    assert none == dense
    weights = sum(layer.weight.numel() for layer in target_layers(network(), TARGETS).values())
    assert dense.targets["base"] == dense.model["base"] == 4 * weights
    assert dense.nominal_bits == 32 * weights


def test_targets_are_counted_apart():
    size = measure(compress_model(network(), [rule("int1", pattern="6")], ["6"]), ["6"])
    assert size.targets == {
        "base": -(-12 * 45 // 8),
        "scales": 2 * 12,
        "indices": 0,
        "adapter": 0,
        "untouched": 4 * 12,
        "header": 0,
    }
    assert size.model["base"] == size.targets["base"]


def test_macs_of_a_dense_model_by_hand():
    # 8x8 positions of the first convolution, 3x3 of the second, one of each Linear.
    expected = 64 * 6 * 1 * 9 + 9 * 5 * 6 * 9 + 45 * 12 + 12 * 7
    model = network()
    assert macs_of(model, inputs(1)) == expected
    assert not model.training


def test_macs_of_groups_strides_and_token_inputs():
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1))
    assert macs_of(grouped, torch.zeros(2, 4, 5, 5)) == 25 * 8 * 2 * 9
    assert macs_of(nn.Sequential(nn.Linear(6, 3)), torch.zeros(2, 7, 6)) == 7 * 18


@pytest.mark.parametrize(
    ("method", "adapter"), [pair for pair in itertools.product(SINGLE, COMMON) if fit(*pair)]
)
def test_macs_add_up_over_method_and_adapter(method, adapter):
    rank, pattern = 0 if adapter == "none" else 2, pattern_for(method)
    made = rule(method, "zeros", adapter, rank, pattern=pattern)
    model = compress_model(network(), [made], TARGETS, calibration=calibration())
    positions = {"0": 64, "3": 9, "6": 1, "8": 1}
    expected = 0
    for name, layer in target_layers(network(), TARGETS).items():
        shape = tuple(layer.weight.shape)
        entry = model.compression.layers.get(name)
        work = entry.method.macs(shape) if entry else layer.weight.numel()
        if entry and entry.rank:
            work += ADAPTERS.build(adapter).macs(shape, rank)
        expected += positions[name] * work
    model.train()
    assert macs_of(model, inputs()) == expected
    assert model.training


def test_block_sparse_and_svd_save_work():
    dense = macs_of(network(), inputs())
    for method in ("block_sparse", METHODS.build("svd", {"rank": 1})):
        assert macs_of(compress_model(network(), [rule(method)], TARGETS), inputs()) < dense

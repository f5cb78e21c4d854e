"""Some rows of a packed weight are those of the whole one, for every method and for chains."""

import math

import pytest
import torch
from networks import STORED, layer_stats, variants
from test_byte_formulas import CHAINS

from compression.methods import METHODS, Method, chain
from compression.methods import rows as by_rows
from compression.methods.rows import cut_at

SHAPES = [(83, 24), (6, 2, 3, 3)]
ODD = [(7, 13), (130, 5)]


def weight_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def check(method, shape):
    packed = method.compress(weight_of(shape), layer_stats(shape))
    whole, rows = packed.dense(), shape[0]
    spans = {(0, rows), (0, 1), (rows - 1, rows), (rows // 2, rows), (rows // 3, 2 * rows // 3 + 1)}
    # A product of factors is summed by a GEMM of another size.
    exact = type(packed.method.opened(packed.state(), shape)[0]).linear is Method.linear
    for start, stop in spans:
        found = packed.dense_rows(start, stop)
        assert found.dtype == torch.float32
        if exact:
            assert torch.equal(found, whole[start:stop]), (packed.method, shape, start, stop)
        else:
            torch.testing.assert_close(found, whole[start:stop], rtol=1e-5, atol=1e-6)
    wanted = torch.tensor([rows - 1, 0, rows // 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_rows, "BLOCK", math.prod(shape) // 3)  # decoded in parts
        assert torch.equal(packed.dense(), whole)
    some = cut_at(packed.method, packed.state(), shape, wanted)
    if some is not None:
        assert torch.equal(packed.method.decode(some, (3, *shape[1:])), whole[wanted])


@pytest.mark.parametrize("name", STORED)
def test_rows_of_every_form(name):
    for method in variants(METHODS, [name]):
        for shape in SHAPES:
            check(method, shape)


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_those_of_the_whole(name):
    for shape in (*SHAPES, *ODD):
        check(METHODS.build(name), shape)


@pytest.mark.parametrize("names", CHAINS, ids="+".join)
def test_rows_of_a_chain(names):
    for shape in SHAPES:
        check(chain([METHODS.build(name) for name in names]), shape)

"""The init whose factors are both alive while their product is nothing."""

from functools import partial

import pytest
import torch
from networks import TARGETS, generator, inputs, network, rule

from compression.inits import INITS
from compression.methods import METHODS
from compression.model import compress_model
from compression.registry import InvalidSetting


def run(shape, rank):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    compress = METHODS.build("int1").compress
    start = INITS.build("orthogonal").start(weight, partial(compress), rank, None, generator())
    return weight, start


@pytest.mark.parametrize(("shape", "rank"), [((64, 96), 2), ((96, 64), 16), ((6, 2, 3, 3), 6)])
def test_the_product_is_zero_up_to_rounding_and_neither_factor_is(shape, rank):
    weight, start = run(shape, rank)
    eps = torch.finfo(torch.float32).eps
    # What rounding the factors, and their product, can leave of each entry.
    bound = 2 * rank * eps * (start.B.abs() @ start.A.abs())
    assert ((start.B @ start.A).abs() <= bound).all()
    assert (start.B.norm(dim=0) > 0).all()
    assert (start.A.norm(dim=1) > 0).all()
    for factor in (start.A, start.B):
        s = torch.linalg.svdvals(factor)
        assert (s[: rank // 2] > 0.01).all()
        assert (s[rank // 2 :] < 1e-5).all()  # one half of the directions each
    assert torch.equal(start.base.dense(), METHODS.build("int1").compress(weight).dense())


def test_both_factors_get_gradients_where_zeros_gives_none_to_a():
    for name, alive in (("orthogonal", True), ("zeros", False)):
        model = compress_model(
            network(), [rule("int1", name, "lora", 2)], TARGETS, generator=generator()
        )
        model(inputs()).square().sum().backward()
        grads = [p.grad for n, p in model.named_parameters() if "lora_A" in n]
        assert all(bool(g.any()) is alive for g in grads)


@pytest.mark.parametrize("alpha", [None, 0.5, 32.0])
def test_the_model_starts_as_it_was_compressed(alpha):
    model = compress_model(
        network(), [rule("rtn", "orthogonal", "lora", 4, alpha)], TARGETS, generator=generator()
    )
    base = compress_model(network(), [rule("rtn")], TARGETS)
    torch.testing.assert_close(model(inputs()), base(inputs()), atol=1e-5, rtol=1e-5)


def test_odd_ranks_are_refused_and_layers_clamped_to_one_still_start_at_nothing():
    assert INITS.build("orthogonal").rank_problem(6) is None
    with pytest.raises(InvalidSetting, match="even rank, got 3"):
        compress_model(network(), [rule("rtn", "orthogonal", "lora", 3)], TARGETS)
    _, start = run((5, 9), 5)
    assert (start.B @ start.A).abs().max() < 1e-7
    assert torch.linalg.matrix_rank(start.B) == 2
    assert torch.linalg.matrix_rank(start.A) == 3
    _, start = run((1, 9), 1)
    assert not start.B.any()
    assert start.A.any()

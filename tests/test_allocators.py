"""The contract of every allocator, and what each published one promises."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.allocation import ALLOCATORS, Candidate
from compression.allocation.solution import Problem
from compression.allocation.spectra import left_out
from compression.methods import METHODS, chain
from compression.registry import InvalidSetting
from compression.stats import GradientStats, InputStats, LayerStats

SHAPES = [(12, 20), (24, 16), (8, 30), (20, 12)]
POOL = [
    METHODS.build(name, args)
    for name, args in [
        ("none", {}),
        *(("svd", {"rank": rank}) for rank in (1, 2, 3, 4, 6, 8)),
        *(("block_svd", {"rank": rank, "tile": 8}) for rank in (1, 2, 4)),
        *(("rtn", {"bits": bits, "group_size": 0}) for bits in (2, 3, 4, 8)),
        *(("magnitude", {"sparsity": share}) for share in (0.3, 0.6, 0.8)),
        ("n_m", {}),
    ]
] + [
    chain([METHODS.build("svd", {"rank": rank}), METHODS.build("rtn", {"bits": bits})])
    for rank in (2, 6)
    for bits in (4, 8)
]


def positive(draw, n):
    root = torch.randn(n, 2 * n, generator=draw) * torch.rand(n, 1, generator=draw)
    return root @ root.T / n


def layers(seed):
    """Weights with spectra that fall at different rates, and statistics beside them."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for rows, columns in SHAPES:
        u, s, vh = torch.linalg.svd(torch.randn(rows, columns, generator=draw), False)
        weight = u * s ** (4 * torch.rand(1, generator=draw)) @ vh
        inputs = InputStats(positive(draw, columns)[None], *torch.zeros(2, 1, columns), 64)
        gradients = GradientStats(torch.zeros(rows, columns), positive(draw, rows))
        found.append((weight, LayerStats(inputs, gradients)))
    return found


def candidates(name, seed):
    """By layer: what the allocator takes of the pool, measured as the squared error of a weight."""
    allocator, found = ALLOCATORS.build(name), []
    for index, (weight, stats) in enumerate(layers(seed)):
        able = [m for m in POOL if allocator.refusal(m, tuple(weight.shape)) is None]
        of = [m.compress(weight, stats) for m in able]
        errors = [float((packed.dense() - weight).square().sum()) for packed in of]
        found.append(
            (
                [
                    Candidate(m, {f"layer{index}": weight}, {f"layer{index}": stats}, error)
                    for m, error in zip(able, errors, strict=True)
                ],
                [packed.stored_bytes() for packed in of],
            )
        )
    return allocator, found


@pytest.fixture(scope="module", params=ALLOCATORS)
def problem(request):
    """The allocator, and costs and sizes by layer."""
    allocator, found = candidates(request.param, 3)
    costs = [allocator.costs(several) for several, _ in found]
    return allocator, costs, [sizes for _, sizes in found]


def budgets(sizes):
    least, most = sum(map(min, sizes)), sum(map(max, sizes))
    return [least, *(round(least + (most - least) * share) for share in (0.1, 0.3, 0.6)), most]


def test_an_allocator_keeps_to_the_budget(problem):
    allocator, costs, sizes = problem
    for budget in budgets(sizes):
        found = allocator.solve(Problem.of(costs, sizes, budget))
        assert found.size == sum(s[k] for s, k in zip(sizes, found.choices, strict=True)) <= budget
        own = [c[k] for c, k in zip(costs, found.choices, strict=True)]
        assert found.value == pytest.approx(allocator.value(own))
    assert allocator.solve(Problem.of(costs, sizes, budgets(sizes)[0] - 1)) is None


def test_no_uniform_choice_is_better_by_its_own_criterion(problem):
    allocator, costs, sizes = problem
    for choice in range(len(costs[0])):
        budget = sum(several[choice] for several in sizes)
        found = allocator.solve(Problem.of(costs, sizes, budget))
        uniform = allocator.value([several[choice] for several in costs])
        assert found.value <= uniform + 1e-9 * abs(uniform)


def test_more_bytes_are_never_worse(problem):
    allocator, costs, sizes = problem
    values = [allocator.solve(Problem.of(costs, sizes, b)).value for b in budgets(sizes)]
    assert values == sorted(values, reverse=True)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(ALLOCATORS)),
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
             min_size=1, max_size=4),
    st.integers(0, 30),
)  # fmt: skip
def test_nothing_that_fits_is_better(name, groups, budget):
    allocator = ALLOCATORS.build(name)
    costs, sizes = ([[float(pair[i]) for pair in group] for group in groups] for i in (0, 1))
    found = allocator.solve(Problem.of(costs, sizes, budget))
    every = [
        allocator.value([c[k] for c, k in zip(costs, choices, strict=True)])
        for choices in itertools.product(*(range(len(group)) for group in groups))
        if sum(s[k] for s, k in zip(sizes, choices, strict=True)) <= budget
    ]
    assert (found is None) == (not every)
    if found is not None:
        assert found.value == pytest.approx(min(every))


@pytest.mark.parametrize("name", ALLOCATORS)
def test_none_costs_nothing_where_the_weights_are_looked_at(name):
    allocator, found = candidates(name, 5)
    for several, _ in found:
        costs = allocator.costs(several)
        assert np.isfinite(costs).all()
        assert costs[[c.method.name for c in several].index("none")] == 0


@pytest.mark.parametrize("name", [n for n in ALLOCATORS if ALLOCATORS[n].measure])
def test_what_was_not_measured_is_asked_for(name):
    with pytest.raises(InvalidSetting, match="nothing was measured of 1"):
        ALLOCATORS.build(name).costs([Candidate(POOL[0], {})])


@pytest.mark.parametrize("name", [n for n in ALLOCATORS if not ALLOCATORS[n].measure])
def test_what_looks_at_weights_needs_no_more_than_it_says(name):
    allocator, found = candidates(name, 5)
    if not allocator.needs:
        bare = [Candidate(one.method, one.weights) for one in found[0][0]]
        assert allocator.costs(bare) == allocator.costs(found[0][0])


REFUSED = {
    "alds": ["rtn", "magnitude", "n_m", "svd+rtn"],
    "welore": ["rtn", "magnitude", "n_m", "block_svd", "svd+rtn"],
    "rd_prune": ["rtn", "svd", "block_svd", "svd+rtn"],
    "mlorq": ["magnitude", "n_m"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_it_cannot_judge_is_refused(name):
    allocator = ALLOCATORS.build(name)
    refused = {method.name for method in POOL if allocator.refusal(method, (16, 16))}
    assert refused == set(REFUSED[name])


def test_the_bound_is_the_relative_operator_norm_of_what_svd_leaves_out():
    """Against the compressed weight itself: sigma_{r+1} is the operator norm of the error."""
    for weight, _ in layers(0):
        for rank in (1, 3, 5):
            method = METHODS.build("svd", {"rank": rank})
            error = weight - method.compress(weight).dense()
            norm = torch.linalg.matrix_norm(error, 2) / torch.linalg.matrix_norm(weight, 2)
            assert left_out([Candidate(method, {"": weight})]) == [pytest.approx(float(norm), 1e-3)]


def test_tiles_as_high_as_the_matrix_are_bounded_one_by_one():
    """ALDS's groups of channels: the largest error of any, beside the whole weight's norm."""
    weight, _ = layers(1)[2]  # 8 x 30: tiles of 8 x 8
    method = METHODS.build("block_svd", {"rank": 2, "tile": 8})
    error = weight - method.compress(weight).dense()
    parts = [float(torch.linalg.matrix_norm(part, 2)) for part in error.split(8, 1)]
    whole = float(torch.linalg.matrix_norm(weight, 2))
    assert left_out([Candidate(method, {"": weight})]) == [pytest.approx(max(parts) / whole, 1e-3)]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_welore_has_one_threshold_and_leaves_dense_what_factors_would_not_shrink(share):
    allocator = ALLOCATORS.build("welore")
    weights = [weight for weight, _ in layers(7)]
    several = [
        [
            METHODS.build("none"),
            *(METHODS.build("svd", {"rank": r}) for r in range(1, min(weight.shape) + 1)),
        ]
        for weight in weights
    ]
    costs = [
        allocator.costs([Candidate(m, {"": w}) for m in methods])
        for w, methods in zip(weights, several, strict=True)
    ]
    sizes = [
        [m.compress(w).stored_bytes() for m in methods]
        for w, methods in zip(weights, several, strict=True)
    ]
    dense = sum(own[0] for own in sizes)
    found = allocator.solve(Problem.of(costs, sizes, int(share * dense)))
    for weight, choice in zip(weights, found.choices, strict=True):
        rows, columns = weight.shape
        sigma = torch.linalg.svdvals(weight.double())
        needed = max(1, int((sigma / sigma[0] > found.value).sum()))
        if needed * (rows + columns) < rows * columns:
            assert choice == needed  # svd of just this rank
        else:
            assert choice == 0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_mlorq_is_no_worse_than_bits_alone_or_ranks_alone(share):
    allocator, found = candidates("mlorq", 11)
    costs = [allocator.costs(several) for several, _ in found]
    sizes = [own for _, own in found]
    budget = int(share * sum(own[0] for own in sizes))
    chosen = allocator.solve(Problem.of(costs, sizes, budget))
    for alone in ("rtn", "svd"):
        kept = [[i for i, c in enumerate(own) if c.method.name == alone] for own, _ in found]
        few = Problem.of(
            [[c[i] for i in k] for c, k in zip(costs, kept, strict=True)],
            [[s[i] for i in k] for s, k in zip(sizes, kept, strict=True)],
            budget,
        )
        if (only := allocator.solve(few)) is not None:
            assert chosen.value <= only.value + 1e-9


def test_mlorq_weighs_errors_by_inputs_and_gradients():
    """Against the mean of (g^T D x)^2 over independent x and g with these second moments."""
    (weight, stats), *_ = layers(2)
    method = METHODS.build("rtn", {"bits": 2, "group_size": 0})
    d = (weight - method.compress(weight).dense()).double()
    x = torch.linalg.cholesky(stats.inputs.second_moment[0].double())
    g = torch.linalg.cholesky(stats.gradients.output_moment.double())
    (cost,) = ALLOCATORS.build("mlorq").costs([Candidate(method, {"": weight}, {"": stats})])
    assert cost == pytest.approx(float((g.T @ d @ x).square().sum()), rel=1e-4)

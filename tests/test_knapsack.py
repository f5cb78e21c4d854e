"""The solvers of allocations against brute force, and their time on large problems."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.allocation.least_largest import least_largest
from compression.allocation.least_sum import least_sum
from compression.allocation.relaxation import Relaxation
from compression.allocation.solution import Problem, undominated

COSTS = st.one_of(
    st.integers(-5, 5).map(float), st.floats(-1e3, 1e3, allow_nan=False, width=32).map(float)
)
CHOICES = st.lists(st.tuples(COSTS, st.integers(0, 30)), min_size=1, max_size=5)


@st.composite
def problems(draw):
    groups = draw(st.lists(CHOICES, min_size=1, max_size=5))
    costs = [[cost for cost, _ in group] for group in groups]
    sizes = [[size for _, size in group] for group in groups]
    return Problem.of(costs, sizes, draw(st.integers(0, 90)))


def fitting(problem):
    every = itertools.product(*(range(len(costs)) for costs in problem.costs))
    return [choices for choices in every if problem.total(choices) <= problem.budget]


SOLVERS = [(least_sum, sum), (least_largest, max)]


@pytest.mark.parametrize(("solve", "value"), SOLVERS)
@settings(max_examples=300, deadline=None)
@given(problem=problems())
def test_nothing_that_fits_is_better(solve, value, problem):
    """Against all combinations: ties, no solution, one group, equal sizes, negative costs."""
    found, every = solve(problem), fitting(problem)
    assert (found is None) == (not every)
    if found is None:
        return
    best = min(value(problem.of_choices(choices)) for choices in every)
    assert found.choices in every
    assert found.size == problem.total(found.choices) <= problem.budget
    assert found.value == pytest.approx(best, abs=1e-9)
    assert found.value == pytest.approx(value(problem.of_choices(found.choices)), abs=1e-9)
    assert found.gap == 0


@settings(max_examples=200, deadline=None)
@given(problems(), st.integers(1, 3))
def test_what_is_not_proven_is_within_its_gap(problem, most):
    found, exact = least_sum(problem, most), least_sum(problem)
    assert (found is None) == (exact is None)
    if found is not None:
        assert found.size <= problem.budget
        assert exact.value - 1e-9 <= found.value <= exact.value + found.gap + 1e-9


@pytest.mark.parametrize("solve", [least_sum, least_largest])
@settings(max_examples=100, deadline=None)
@given(problem=problems(), more=st.integers(0, 30))
def test_more_bytes_are_never_worse(solve, problem, more):
    before = solve(problem)
    after = solve(Problem(problem.costs, problem.sizes, problem.budget + more))
    if before is not None:
        assert after.value <= before.value + 1e-9


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_largest_is_kept_by_the_fewest_bytes(problem):
    found = least_largest(problem)
    if found is not None:
        as_good = (c for c in fitting(problem) if max(problem.of_choices(c)) <= found.value)
        assert found.size == min(map(problem.total, as_good))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_relaxation_is_a_bound_and_its_whole_steps_a_solution(problem):
    kept = [undominated(c, s) for c, s in zip(problem.costs, problem.sizes, strict=True)]
    relaxed = Relaxation(
        [c[k] for c, k in zip(problem.costs, kept, strict=True)],
        [s[k] for s, k in zip(problem.sizes, kept, strict=True)],
    )
    (steps,) = relaxed.whole_steps(0, np.array([problem.budget]))
    every = fitting(problem)
    assert (steps < 0) == (not every)
    if every:
        best = min(sum(problem.of_choices(choices)) for choices in every)
        assert relaxed.least_cost(0, problem.budget) <= best + 1e-6
        ahead = relaxed.choices_after(0, int(steps))
        whole = [int(k[c]) for k, c in zip(kept, ahead, strict=True)]
        assert tuple(whole) in every
        (cost,) = relaxed.cost_after(0, np.array([steps]))
        assert cost == pytest.approx(sum(problem.of_choices(whole)), abs=1e-3)


@given(CHOICES)
def test_the_undominated_are_those_that_nothing_beats(choices):
    costs = np.array([cost for cost, _ in choices])
    sizes = np.array([size for _, size in choices])
    kept = undominated(costs, sizes)
    assert (np.diff(sizes[kept]) > 0).all()
    assert (np.diff(costs[kept]) < 0).all()
    for cost, size in choices:
        assert any(costs[k] <= cost and sizes[k] <= size for k in kept)


@pytest.mark.parametrize(
    ("costs", "sizes"), [([], []), ([[]], [[]]), ([[1.0]], [[1, 2]]), ([[1.0]], [[-1]])]
)
def test_what_is_no_problem_is_refused(costs, sizes):
    with pytest.raises(ValueError, match="group"):
        Problem.of(costs, sizes, 5)


def test_costs_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Problem.of([[float("nan")]], [[1]], 5)


def large(kind, seed, groups=200, choices=30):
    """A model of 200 layers: error falls with the bits, with noise; or bytes and cost alike."""
    draw = np.random.default_rng(seed)
    sizes = np.sort(draw.integers(1, 4_000_000, (groups, choices)), axis=1)
    if kind == "noise":
        costs = draw.random((groups, choices))
    elif kind == "alike":
        costs = -(sizes + draw.integers(0, 1000, sizes.shape)) / 4e6
    else:
        scale = np.exp(draw.normal(0, 1.5, (groups, 1)))
        costs = scale * np.exp(-8 * sizes / sizes.max()) * draw.uniform(0.8, 1.2, sizes.shape)
    return Problem.of(costs, sizes, int(sizes.mean(1).sum() * 0.6))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layers", "noise", "alike"])
@pytest.mark.parametrize("seed", range(3))
def test_a_large_problem_takes_seconds(kind, seed):
    """Costs that follow the bytes are the hardest: there the proof may stop within 1e-6."""
    started = time.process_time()
    found = least_sum(large(kind, seed))
    assert time.process_time() - started < 10
    assert found.gap <= (1e-6 * abs(found.value) if kind == "alike" else 0)

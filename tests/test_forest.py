"""The searcher `forest`: its arrays, its acquisition, what it learns of."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runner import CONFIG, FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fronts import hypervolume
from study.config import load_config, parse_config
from study.searchers import SEARCHERS, Turn
from study.searchers.encoding import ABSENT, Encoding
from study.searchers.forest_sampler import ForestSampler
from study.searchers.improvement import growth, scalarised
from study.searchers.seen import Seen

POINT = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(POINT, max_size=8), st.lists(POINT, min_size=1, max_size=5))
def test_growth_is_the_difference_of_two_hypervolumes(front, points):
    corner = np.array([5.0, 5.0])
    base = hypervolume(np.reshape(front, (-1, 2)), corner)
    wanted = [hypervolume([*front, point], corner) - base for point in points]
    assert growth(points, front, corner) == pytest.approx(wanted)


def test_a_scalarisation_never_prefers_what_is_dominated():
    rng = np.random.default_rng(0)
    points, weights = rng.random((200, 3)), rng.dirichlet(np.ones(3))
    better = points - rng.random((200, 3)) * 0.5
    assert (scalarised(better, weights) < scalarised(points, weights)).all()


@pytest.fixture(scope="module")
def space():
    return load_config("study/configs/digits.yaml").search_space()


def _is_in(space, params):
    applies = {k for k, p in space.params.items() if p.applies(params)}
    return set(params) == applies and not any(
        space.params[k].domain.problem(v) for k, v in params.items()
    )


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_what_is_drawn_and_what_is_changed_is_in_the_space(space, seed):
    encoding, rng = Encoding(space.params), np.random.default_rng(seed)
    drawn = encoding.draw(rng, 40)
    near = encoding.changed(drawn, rng, 0.1)
    for row in (*drawn, *near):
        params = encoding.decode(row)
        assert _is_in(space, params)
        assert encoding.encode([params])[0] == pytest.approx(row)
    assert (near != drawn).any(axis=1).mean() > 0.5  # a choice may be drawn as it was


def test_draws_are_spread_as_random_searchs_are(space):
    encoding = Encoding(space.params)
    drawn = encoding.draw(np.random.default_rng(0), 20_000)
    for place, name in enumerate(encoding.names):
        choices = space.params[name].corners()
        there = drawn[:, place][drawn[:, place] != ABSENT]
        if len(there) > 5000 and name == "method":
            shares = np.bincount(there.astype(int)) / len(there)
            assert shares == pytest.approx(np.full(len(choices), 1 / len(choices)), abs=0.02)


def _study(**knobs):
    args = ", ".join(f"{k}: {v}" for k, v in knobs.items())
    text = CONFIG.replace("{tpe: {startup: 4}}", f"{{forest: {{{args}}}}}")
    return FakeRunner(parse_config(text.replace("trials: 12", "trials: 30"))).run()


def _seen(runner):
    encoding = Encoding(runner.config.search_space().params)
    return Seen.of(runner.search._history.study, encoding), encoding


def test_a_stopped_trial_teaches_as_what_it_was():
    runner = _study(startup=8)
    seen, _ = _seen(runner)
    ended = runner.state.counts()
    assert ended["stopped"]
    assert ended["completed"]
    assert len(seen) == ended["stopped"] + ended["completed"] + ended["answered"]
    rows, shares, _ = seen.points.T
    assert set(rows.astype(int)) == set(range(len(seen)))
    assert shares.max() == 1.0
    assert (np.bincount(rows.astype(int)) <= 4).all()
    # Whatever was stopped is nowhere said to have come to its end.
    last = [shares[rows == row].max() for row in range(len(seen))]
    assert sum(share < 1 for share in last) >= ended["stopped"]


def _values(runner, **knobs):
    """What it thinks of 200 settings after a study."""
    seen, encoding = _seen(runner)
    sampler = ForestSampler(
        Turn(0, 0, 0, encoding.params), SEARCHERS.build("forest", {"random": 0.0, **knobs})
    )
    candidates = encoding.draw(np.random.default_rng(1), 200)
    return sampler._values(seen, candidates), seen, encoding, candidates


def test_growth_is_finite_and_never_negative():
    values, *_ = _values(_study())
    assert np.isfinite(values).all()
    assert (values >= 0).all()


def test_a_broken_constraint_makes_a_setting_worth_less():
    runner = _study()
    seen, encoding = _seen(runner)
    rule = SEARCHERS.build("forest", {"random": 0.0})
    candidates = encoding.draw(np.random.default_rng(1), 100)
    free = ForestSampler(Turn(0, 0, 0, encoding.params), rule)._values(seen, candidates)
    bound = Seen(**{**vars(seen), "violation": np.ones(len(seen))})
    kept = ForestSampler(Turn(0, 0, 0, encoding.params), rule)._values(bound, candidates)
    assert (kept <= free * 1e-3).all()


def tried(rows):
    return {row.tobytes() for row in rows}


def test_it_finds_the_cheap_corner_of_a_known_function_sooner_than_chance():
    """Forty suggestions on a smooth function of two knobs reach nearer to its best."""
    text = CONFIG.replace("{tpe: {startup: 4}}", "{forest: {startup: 8, random: 0.0}}")
    runner = FakeRunner(parse_config(text))
    encoding = Encoding(runner.config.search_space().params)

    def loss(row):
        params = encoding.decode(row)
        rank, rate = params.get("rank", 0), params.get("adam.lr", params.get("sgd.lr", 1.0))
        return abs(np.log10(rate) + 2.0) + (rank != 2), float(params.get("rtn.bits", 1))

    rng = np.random.default_rng(0)
    rows = encoding.draw(rng, 40)
    losses = np.array([loss(row) for row in rows])
    points = np.column_stack([np.arange(40), np.ones(40), losses[:, 0]])
    seen = Seen(rows, rows[:0], losses, points, np.zeros(40), np.zeros(40), tried(rows))
    rule = SEARCHERS.build("forest", {"random": 0.0, "startup": 8})
    chosen = [
        loss(ForestSampler(Turn(99, s, 0, encoding.params), rule)._chosen(seen))[0]
        for s in range(20)
    ]
    chance = [loss(row)[0] for row in encoding.draw(np.random.default_rng(9), 200)]
    assert np.median(chosen) < np.median(chance)


def test_what_breaks_a_constraint_is_no_front_to_be_beaten():
    """Half of what is known breaks a constraint and is better at everything."""
    encoding = Encoding(parse_config(CONFIG).search_space().params)
    rng = np.random.default_rng(0)
    rows = encoding.draw(rng, 100)
    broken = rows[:, encoding.names.index("method")] == 1.0
    losses = rng.random((100, 2)) - 2.0 * broken[:, None]
    points = np.column_stack([np.arange(100), np.ones(100), losses[:, 0]])
    seen = Seen(rows, rows[:0], losses, points, np.zeros(100), broken.astype(float), tried(rows))
    assert not broken[seen.front].any()
    rule = SEARCHERS.build("forest", {"random": 0.0})
    chosen = [ForestSampler(Turn(99, s, 0, encoding.params), rule)._chosen(seen) for s in range(60)]
    kept = [row[encoding.names.index("method")] == 0.0 for row in chosen]
    assert np.mean(kept) >= 0.9  # trees are random: of 100 seeds 3 or 4 miss it
    worst = Seen(**{**vars(seen), "violation": 1.0 + rng.random(100)})
    assert list(worst.front) == [worst.violation.argmin()]


LAYERWISE = CONFIG.replace("space:", "space:\n  layerwise: {groups: each, starts: 0}")


def test_a_layer_wise_space_is_drawn_as_it_is():
    space = parse_config(LAYERWISE).search_space()
    encoding = Encoding(space.params)
    for row in encoding.draw(np.random.default_rng(0), 100):
        params = encoding.decode(row)
        assert _is_in(space, params)
        assert encoding.encode([params])[0] == pytest.approx(row)


def test_a_trial_that_was_ended_before_training_costs_what_it_cost():
    from study.searchers.seen import _log_cost

    assert _log_cost({"seconds": 0.2, "points": [(0.0, 1.0)]}) == pytest.approx(np.log(0.2))
    assert _log_cost({"seconds": 1.0, "points": [(0.25, 1.0)]}) == pytest.approx(np.log(4.0))

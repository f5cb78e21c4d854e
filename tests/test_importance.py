"""Importance: what matters comes first, what does not is near zero, and signs are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import info, trial

from analysis.importance import best_of, weights
from analysis.knobs import DEFAULT, knobs
from analysis.load import StudyData
from trainables.record import Choice, LayerRule, Trial

N = 400


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def columns_of(rng: np.random.Generator) -> dict[str, list]:
    return {
        "lr": (10 ** rng.uniform(-4, -1, N)).tolist(),
        "method": rng.choice(["svd", "rtn", "int1"], N).tolist(),
        "idle": rng.uniform(0, 1, N).tolist(),
        "idle too": rng.choice([1, 2, 4, 8], N).tolist(),
    }


def weighed(columns, losses):
    best = best_of(losses)
    assert best is not None
    found = weights(columns, best)
    assert found
    return {weight.name: weight for weight in found}


@pytest.mark.parametrize("names", [("lr", "method"), ("method", "lr")])
def test_the_knob_that_decides_comes_first_and_idle_ones_are_near_zero(rng, names):
    columns, decides = columns_of(rng), names[0]
    values = columns[decides]
    losses = np.log(values) if decides == "lr" else np.array([v != "svd" for v in values], float)
    found = weighed(columns, losses + rng.normal(0, 0.05, N))
    first = next(iter(found.values()))
    assert first.name == decides
    assert first.share > 0.85
    assert first.above_chance
    for name in ("idle", "idle too", names[1]):
        assert found[name].share < 0.08


def test_of_two_the_one_with_the_larger_effect_weighs_more(rng):
    columns = columns_of(rng)
    losses = 3 * np.array(columns["idle"]) + np.log10(columns["lr"]) / 3
    found = weighed(columns, losses)
    assert list(found)[:2] == ["idle", "lr"]
    assert found["lr"].share > max(found["method"].share, found["idle too"].share)


def noise(rng: np.random.Generator, n: int) -> dict[str, list]:
    """18 knobs that do nothing: numbers, levels, and such that only some trials have."""
    columns: dict[str, list] = {f"number {i}": rng.uniform(0, 1, n).tolist() for i in range(6)}
    columns |= {f"levels {i}": rng.choice([1, 2, 4, 8], n).tolist() for i in range(6)}
    for i in range(6):
        values = rng.uniform(0, 1, n)
        columns[f"some {i}"] = [float(v) if v < 0.4 else None for v in values]
    return columns


def test_a_panel_of_noise_seldom_says_that_any_knob_matters():
    panels, said = 100, 0
    for seed in range(panels):
        rng = np.random.default_rng(seed)
        best = best_of(rng.normal(size=120))
        assert best is not None
        said += any(weight.above_chance for weight in weights(noise(rng, 120), best) or ())
    # Three standard errors above 5%; a test of each knob alone says so in half of them.
    assert said / panels <= 0.05 + 3 * (0.05 * 0.95 / panels) ** 0.5


def test_a_knob_that_decides_is_told_from_chance_among_many_that_do_nothing():
    rng = np.random.default_rng(0)
    columns = {**noise(rng, 120), "decides": rng.uniform(0, 1, 120).tolist()}
    best = best_of(np.array(columns["decides"]) + rng.normal(0, 0.1, 120))
    assert best is not None
    found = weights(columns, best)
    assert found
    assert [weight.name for weight in found if weight.above_chance] == ["decides"]


def test_equal_medians_lie_on_no_side(rng):
    even = (np.arange(N) - N / 2 + 0.5).tolist()
    found = weighed({**columns_of(rng), "even": even}, np.abs(even))["even"]
    assert found.toward == ""
    assert found.helps == "median 0 among the best and among all"


@given(st.integers(0, 50))
@settings(max_examples=10)
def test_shares_add_up_and_lie_within_their_intervals(seed):
    rng = np.random.default_rng(seed)
    columns = columns_of(rng)
    found = weighed(columns, np.array(columns["idle"]) + rng.normal(size=N))
    assert sum(weight.share for weight in found.values()) == pytest.approx(1)
    for weight in found.values():
        assert 0 <= weight.low <= weight.share <= weight.high


def test_what_helps_has_the_sign_of_the_objective(rng):
    columns = columns_of(rng)
    lr, method = np.log(columns["lr"]), np.array([v == "svd" for v in columns["method"]], float)
    assert weighed(columns, lr)["lr"].helps.startswith("smaller: median ")
    assert weighed(columns, -lr)["lr"].helps.startswith("larger: median ")
    assert weighed(columns, -lr)["lr"].toward == "larger"
    assert weighed(columns, -method + 0.01 * lr)["method"].helps.startswith("svd: 100% of the best")


def test_a_knob_that_few_have_weighs_by_how_many_of_the_best_have_it(rng):
    """Scaled by share_best^2 / share_all: who has it only where nothing is won weighs nothing."""
    columns = columns_of(rng)
    columns["svd.energy"] = [
        float(rng.uniform()) if method == "svd" else None for method in columns["method"]
    ]
    is_svd = np.array([method == "svd" for method in columns["method"]])
    energy = np.array([value or 0.0 for value in columns["svd.energy"]])
    found = weighed(columns, np.where(is_svd, 5.0 + energy, rng.uniform(0, 1, N)))
    assert found["svd.energy"].share < 0.02
    found = weighed(columns, np.where(is_svd, energy, 5.0))
    assert next(iter(found)) == "svd.energy"


def test_the_order_of_knobs_is_that_of_another_implementation(rng):
    """Optuna's evaluator of the same measure, on the same trials."""
    optuna = pytest.importorskip("optuna")
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    columns = columns_of(rng)
    losses = 2 * np.array(columns["idle"]) ** 2 + np.log10(columns["lr"]) / 2
    losses = losses + np.array([0.3 * (v == "svd") for v in columns["method"]])
    spaces = {
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        "method": CategoricalDistribution(["svd", "rtn", "int1"]),
        "idle": FloatDistribution(0, 1),
        "idle too": CategoricalDistribution([1, 2, 4, 8]),
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.add_trials(
        optuna.trial.create_trial(
            params={name: columns[name][i] for name in spaces},
            distributions=spaces,
            value=float(losses[i]),
        )
        for i in range(N)
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    theirs = evaluator.evaluate(study)
    ours = weighed(columns, losses)
    assert list(ours)[:2] == sorted(theirs, key=theirs.get, reverse=True)[:2]


def test_too_few_trials_or_all_alike_have_no_best():
    assert best_of([1.0] * 100) is None
    assert best_of(range(19)) is None
    best = best_of(range(100))
    assert best is not None
    assert best.sum() == 10
    assert best[:10].all()


def study(**params) -> StudyData:
    return StudyData("s", {**info(), "space": {"params": params}}, ())


def rtn(**args) -> Trial:
    return trial(Choice("rtn", args))


def test_knobs_are_what_differs_by_the_names_of_the_space():
    trials = [rtn(bits=2), rtn(bits=3), trial(Choice("svd", {"energy": 0.5}), "none", 0)]
    found = knobs(study(), trials)
    assert found["rtn.bits"] == [2, 3, None]
    assert found["method"] == ["rtn", "rtn", "svd"]
    assert found["rank"] == [2, 2, None]
    assert found["adam.lr"] == [0.01, 0.01, None]
    assert "seed" not in found
    assert "rest" not in found


def test_a_chain_and_a_pattern_are_named_as_in_the_space():
    chain = (Choice("svd", {"energy": 0.5}), Choice("rtn", {"bits": 2}))
    one = Trial(Choice("digits"), (LayerRule(chain, pattern="fc*"),))
    other = Trial(Choice("digits"), (LayerRule((Choice("rtn", {"bits": 3}),), pattern="fc*"),))
    found = knobs(study(), [one, other])
    assert found["fc*: svd/rtn.rtn.bits"] == [2, None]
    assert found["fc*: svd/rtn.svd.energy"] == [0.5, None]
    assert found["fc*: rtn.bits"] == [None, 3]
    assert found["fc*: method"] == ["svd/rtn", "rtn"]


def test_a_default_is_the_one_value_that_no_record_names():
    bits = {"domain": {"values": [2, 3, 4]}}
    trials = [rtn(bits=2), rtn(bits=3), rtn(), trial(Choice("int1"))]
    assert knobs(study(**{"rtn.bits": bits}), trials)["rtn.bits"] == [2, 3, 4, None]
    assert knobs(study(), trials)["rtn.bits"] == [2, 3, None, None]
    modes = [rtn(mode="asymmetric"), rtn(), trial(Choice("int1"))]
    assert knobs(study(), modes)["rtn.mode"] == ["asymmetric", DEFAULT, None]


def test_draws_from_a_range_are_no_levels_however_few(rng):
    """A knob that few trials have, each at a value of its own, helps on one side."""
    columns = columns_of(rng)
    few = [float(value) if i % 50 == 0 else None for i, value in enumerate(columns["lr"])]
    middle = np.median([value for value in few if value])
    best = np.array([-1.0 if v and v > middle else 1.0 for v in few])
    found = weighed({**columns, "few": few}, best + columns["idle"])
    assert found["few"].toward == "larger"

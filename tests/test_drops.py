"""How much worse, and how surely: bootstrap bounds against closed forms, twins and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_task import TinyTask

from analysis.stats import drop_upper
from trainables.record import Direction, Objective, Paired
from trainables.scoring import metrics
from trainables.scoring.bootstrap import RESAMPLES, bounds, spread
from trainables.scoring.drops import UNSEEN, Drops

Z = 1.6448536


class Scored(TinyTask):
    """Tiny with any metric of what was observed."""

    def __init__(self, objective, metric, counted=True):
        self._objective, self._metric, self._counted = objective, metric, counted

    @property
    def objective(self):
        return self._objective

    def score(self, observed, labels):
        return {self.metric: self._metric(observed, labels)}

    def correct(self, observed, labels):
        return super().correct(observed, labels) if self._counted else None


def compared(task, labels, reference, model):
    drops = Drops(task, labels)
    drops.take("dense", reference)
    drops.take("model", model)
    return drops.drop("dense", "model")


def guesses(labels, wrong, seed):
    """Predictions of which the share ``wrong`` is the next class."""
    rng = torch.Generator().manual_seed(seed)
    return (labels + (torch.rand(len(labels), generator=rng) < wrong)) % (int(labels.max()) + 1)


LABELS = torch.arange(900) % 9 // 8  # one in nine is of class 1
BALANCED = Scored(
    Objective("balanced_accuracy", unit="fraction"),
    lambda observed, labels: metrics.balanced_accuracy(observed["prediction"], labels),
)
MCC = Scored(Objective("mcc"), lambda o, labels: metrics.mcc(o["prediction"], labels))
PERPLEXITY = Scored(
    Objective("perplexity", Direction.MINIMIZE),
    lambda observed, labels: metrics.perplexity(observed["nll"], observed["tokens"]),
    counted=False,
)


def test_a_drop_is_the_difference_of_the_scores_on_all_examples():
    dense, model = ({"prediction": guesses(LABELS, w, i)} for i, w in enumerate((0.05, 0.15)))
    found = compared(BALANCED, LABELS, dense, model)
    scores = [metrics.balanced_accuracy(o["prediction"], LABELS) for o in (dense, model)]
    assert found.absolute.value == pytest.approx(scores[0] - scores[1])
    assert found.absolute.low < found.absolute.value < found.absolute.high
    assert (found.metric, found.n, found.relative) == ("balanced_accuracy", 900, None)


def test_of_accuracy_it_agrees_with_the_score_interval():
    def accuracy(observed, labels):
        return (observed["prediction"] == labels).double().mean().item()

    task = Scored(Objective("accuracy", unit="fraction"), accuracy)
    dense, model = guesses(LABELS, 0.08, 0), guesses(LABELS, 0.12, 1)
    found = compared(task, LABELS, {"prediction": dense}, {"prediction": model})
    right, ours = dense == LABELS, model == LABELS
    pair = Paired(900, int((right & ~ours).sum()), int((ours & ~right).sum()))
    assert found.absolute.value == pytest.approx(pair.drop)
    assert found.absolute.high - pair.drop == pytest.approx(drop_upper(pair) - pair.drop, rel=0.08)


def test_of_perplexity_it_agrees_with_the_delta_method():
    rng = torch.Generator().manual_seed(3)
    tokens = torch.full((400,), 50)
    nll = 50 * (3 + 0.4 * torch.randn(400, generator=rng, dtype=torch.float64))
    worse = nll + 50 * (0.02 + 0.05 * torch.randn(400, generator=rng, dtype=torch.float64))
    labels = torch.zeros(400)
    dense, model = {"nll": nll, "tokens": tokens}, {"nll": worse, "tokens": tokens}
    found = compared(PERPLEXITY, labels, dense, model)
    step = (worse - nll) / 50
    half = Z * step.std() / math.sqrt(400)
    assert found.relative.value == pytest.approx(step.mean().expm1().item())
    assert found.relative.high == pytest.approx((step.mean() + half).expm1().item(), rel=0.03)
    assert found.relative.low == pytest.approx((step.mean() - half).expm1().item(), rel=0.1)
    value = metrics.perplexity(nll, tokens)
    assert found.absolute.value == pytest.approx(value * found.relative.value)
    back = compared(PERPLEXITY, labels, model, dense)
    assert back.absolute.high == pytest.approx(-found.absolute.low, rel=0.05)


def test_which_way_a_metric_is_better_changes_only_its_sign():
    dense, model = ({"prediction": guesses(LABELS, w, i)} for i, w in enumerate((0.05, 0.15)))
    turned = Scored(
        Objective("regret", Direction.MINIMIZE),
        lambda o, labels: -metrics.mcc(o["prediction"], labels),
    )
    one, other = (compared(task, LABELS, dense, model).absolute for task in (MCC, turned))
    assert one.value == other.value > 0
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-6)


def test_equal_models_are_no_nearer_than_three_errors():
    same = {"prediction": guesses(LABELS, 0.05, 0)}
    found = compared(BALANCED, LABELS, same, same)
    # Of the 100 examples of the rare class, one class of two.
    assert found.absolute.value == 0
    assert found.absolute.high == -found.absolute.low == pytest.approx(UNSEEN / 100 / 2)
    assert f"no nearer than {UNSEEN} errors" in found.method
    share = compared(MCC, LABELS, same, same)
    assert share.relative.high == pytest.approx(
        share.absolute.high / metrics.mcc(same["prediction"], LABELS)
    )


def test_without_right_and_wrong_equal_models_are_equal():
    same = {"nll": torch.rand(50).double(), "tokens": torch.ones(50)}
    found = compared(PERPLEXITY, torch.zeros(50), same, same)
    assert (found.absolute.low, found.absolute.high) == (0, 0)


def test_the_bounds_are_those_of_another_implementation():
    data = np.random.default_rng(0).exponential(size=120)
    metric = torch.from_numpy(data)
    taken = spread(lambda rows: metric[rows].mean().item(), 120)
    assert taken.resampled.shape == (RESAMPLES,)
    found = bounds(taken.value, taken.resampled, taken.left_out)
    twin = stats.bootstrap(
        (data,), np.mean, confidence_level=0.9, n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = twin.high - twin.low
    assert abs(found.low - twin.low) < 0.06 * width
    assert abs(found.high - twin.high) < 0.06 * width


def test_upper_bounds_cover_as_often_as_said():
    """The growth of a perplexity over 100 skewed texts, in 400 draws of them."""
    rng, n, covered = torch.Generator().manual_seed(0), 100, 0
    truth = math.expm1(0.02)
    rows = torch.randint(n, (500, n), generator=rng)
    apart = torch.arange(n).repeat(n, 1)[~torch.eye(n, dtype=torch.bool)].reshape(n, n - 1)
    for _ in range(400):
        skewed = -torch.rand(n, generator=rng, dtype=torch.float64).log()
        step = 0.02 + 0.05 * (skewed - 1)
        found = bounds(
            step.mean().expm1().item(),
            step[rows].mean(1).expm1(),
            step[apart].mean(1).expm1(),
        )
        covered += found.high >= truth
    # 0.95 with three standard errors of 400 draws.
    assert 0.917 <= covered / 400 <= 0.985


def test_a_metric_that_is_not_finite_has_no_drop():
    broken = Scored(
        Objective("odd", Direction.MINIMIZE), lambda observed, labels: math.nan, counted=False
    )
    some = {"nll": torch.ones(9)}
    assert compared(broken, torch.zeros(9), some, some) is None
    rare = torch.cat([torch.zeros(1980), torch.full((20,), math.inf)])
    assert bounds(0.0, rare, torch.zeros(5)) is None
    assert bounds(0.0, rare[:1999], torch.zeros(5)) is not None


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_examples_give_bounds(n):
    labels = torch.arange(n) % 2
    found = compared(BALANCED, labels, {"prediction": labels}, {"prediction": 1 - labels})
    assert found.absolute.value == 1
    assert found.n == n


def test_a_model_that_knows_one_class_only_can_still_err():
    same = {"prediction": torch.zeros(900, dtype=torch.long)}
    found = compared(BALANCED, LABELS, same, same)
    assert found.absolute.high == pytest.approx(UNSEEN / 800 / 2)

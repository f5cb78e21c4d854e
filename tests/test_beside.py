"""Worst class and calibration: closed forms, bounds, and that they are told of a read of test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.scoring.beside import BINS, beside, calibration_error, worst_class_drop
from trainables.scoring.metrics import classified, shares

CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(CLASSES, st.randoms())
def test_the_worst_class_loses_at_least_what_all_lose(labels, random):
    """The drop of balanced accuracy is a mean over classes, so no larger than the largest."""
    truth = torch.tensor(labels)
    guesses = [torch.tensor([random.randrange(6) for _ in labels]) for _ in range(2)]
    found = worst_class_drop(*guesses, truth)
    recalls = [[(g[truth == c] == c).double().mean().item() for c in set(labels)] for g in guesses]
    assert found == pytest.approx(max(a - b for a, b in zip(*recalls, strict=True)))
    assert -1 <= found <= 1
    assert worst_class_drop(truth, guesses[0], truth) >= 0
    assert worst_class_drop(guesses[0], guesses[0], truth) == 0


def test_confidence_that_comes_true_has_no_calibration_error():
    confidence = torch.tensor([0.75] * 8)
    right = torch.tensor([True] * 6 + [False] * 2)
    assert calibration_error(confidence, right) == pytest.approx(0)
    assert calibration_error(torch.ones(8), right) == pytest.approx(0.25)
    assert calibration_error(torch.ones(8), ~right) == pytest.approx(0.75)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_between_the_gap_of_all_and_one(pairs):
    confidence, right = (torch.tensor(one, dtype=torch.double) for one in zip(*pairs, strict=True))
    found = calibration_error(confidence, right.bool())
    assert abs((right - confidence).mean().item()) - 1e-9 <= found <= 1 + 1e-9


def test_values_at_the_edges_have_a_bin():
    edges = torch.linspace(0, 1, BINS + 1)
    assert calibration_error(edges, torch.ones(len(edges), dtype=torch.bool)) == pytest.approx(0.5)


def test_they_are_told_as_far_as_they_can_be():
    logits, labels = torch.randn(30, 4), torch.arange(30) % 4
    observed = classified(logits, labels)
    assert torch.allclose(observed["confidence"], logits.softmax(1).max(1).values)
    assert set(beside(observed, labels, None)) == {"calibration_error"}
    told = beside({"prediction": observed["prediction"]}, labels, observed)
    assert told == {"worst_class_drop": 0.0}
    assert set(shares("accuracy", observed, labels)) == {"accuracy", "loss"}

"""What a read of test tells of a classifier beside its scores: its worst class, its confidence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.scoring.metrics import confusion

__all__ = ["beside", "calibration_error", "worst_class_drop"]

BINS = 15


def beside(
    observed: Mapping[str, Tensor], labels: Tensor, dense: Mapping[str, Tensor] | None
) -> dict[str, float]:
    """Both of these by name, as far as they can be told.

    Args:
        observed: As :func:`trainables.scoring.metrics.classified` of the examples.
        labels: (n,) classes.
        dense: The same of the dense model; None where it was not observed.
    """
    found = {}
    if dense is not None:
        found["worst_class_drop"] = worst_class_drop(
            dense["prediction"], observed["prediction"], labels
        )
    if "confidence" in observed:
        right = observed["prediction"] == labels
        found["calibration_error"] = calibration_error(observed["confidence"], right)
    return found


def worst_class_drop(reference: Tensor, prediction: Tensor, labels: Tensor) -> float:
    """The largest drop in the share found of a class, of all that occur: (n,) each; a fraction.

    max over c of recall_c(reference) - recall_c(prediction), in [-1, 1].
    """
    present = torch.bincount(labels) > 0
    found = []
    for guesses in (reference, prediction):
        table = confusion(guesses, labels)[: len(present)]
        found.append(table.diagonal()[present] / table.sum(1)[present])
    return (found[0] - found[1]).max().item()


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error over 15 bins of equal width: (n,), (n,) bool; a fraction.

    Sum over bins of n_b / n |mean of right - mean of confidence|.
    Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599.
    """
    bins = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = right.double() - confidence.double()
    sums = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, gaps)
    return (sums.abs().sum() / len(confidence)).item()

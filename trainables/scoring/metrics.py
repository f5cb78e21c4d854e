"""What a model did on each example, and scores over many of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def classified(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``prediction`` (b,) int64, its probability ``confidence`` and ``loss``, the cross-entropy.

    Of logits (b, classes) and labels (b,).
    """
    return {
        "prediction": outputs.argmax(-1),
        "confidence": outputs.softmax(-1).amax(-1),
        "loss": nn.functional.cross_entropy(outputs, labels, reduction="none"),
    }


def among_five(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``top5`` (b,) bool: the label is among the five largest logits; none of up to 5 classes."""
    if outputs.shape[-1] <= 5:
        return {}
    return {"top5": (outputs.topk(5).indices == labels[:, None]).any(-1)}


def runners_up(logits: Tensor, tolerance: float) -> Tensor:
    """The class that each example might fall into if its logits (b, classes) were rounded anew.

    (b,) int64: the second largest where it comes within twice ``tolerance``, a share of the largest
    logit, of the largest, since either may be off by that; -1 elsewhere.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        return torch.full(logits.shape[:1], -1)
    values, classes = logits.topk(2)
    near = values[:, 0] - values[:, 1] <= 2 * tolerance * logits.abs().max().clamp(min=1)
    return torch.where(near, classes[:, 1], -1)


UNSCORED = ("prediction", "confidence")
"""What is observed of examples and is not the better for being larger or smaller."""


def shares(name: str, observed: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """``name``: the share of right predictions; and the means of what tells how good these are."""
    right = (observed["prediction"] == labels).double().mean().item()
    others = {k: v.double().mean().item() for k, v in observed.items() if k not in UNSCORED}
    return {name: right, **others}


def confusion(prediction: Tensor, labels: Tensor) -> Tensor:
    """How often each class (row) was taken for each (column): (n,), (n,) to (k, k) float64."""
    classes = int(torch.stack([prediction.max(), labels.max()]).max()) + 1
    counts = torch.bincount(labels * classes + prediction, minlength=classes**2)
    return counts.reshape(classes, classes).double()


def balanced_accuracy(prediction: Tensor, labels: Tensor) -> float:
    """Mean of the shares found of each class that occurs in ``labels`` (n,)."""
    table = confusion(prediction, labels)
    present = table.sum(1) > 0
    return (table.diagonal()[present] / table.sum(1)[present]).mean().item()


def f1(prediction: Tensor, labels: Tensor) -> float:
    """Mean over the classes, in labels or predictions, of 2 hits / (predicted + present)."""
    table = confusion(prediction, labels)
    occurring = table.sum(0) + table.sum(1)
    seen = occurring > 0
    return (2 * table.diagonal()[seen] / occurring[seen]).mean().item()


def mcc(prediction: Tensor, labels: Tensor) -> float:
    """Matthews' correlation of k classes, in [-1, 1]: 0 where either side is constant.

    (c s - p.t) / sqrt((s^2 - p.p)(s^2 - t.t)) with c right of s examples, p and t the counts of
    predictions and labels. Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    """
    table = confusion(prediction, labels)
    predicted, present, total = table.sum(0), table.sum(1), table.sum()
    covariance = table.diagonal().sum() * total - predicted @ present
    variances = (total**2 - predicted @ predicted) * (total**2 - present @ present)
    return (covariance / variances.sqrt()).item() if variances > 0 else 0.0


def classification_scores(observed: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """All metrics of :func:`classified` examples: fractions, ``mcc`` in [-1, 1], ``loss``."""
    prediction = observed["prediction"]
    return {
        "accuracy": (prediction == labels).double().mean().item(),
        "balanced_accuracy": balanced_accuracy(prediction, labels),
        "f1": f1(prediction, labels),
        "mcc": mcc(prediction, labels),
        "loss": observed["loss"].double().mean().item(),
    }


def next_tokens(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """How well each text was foretold, from logits (b, t, v) and its tokens (b, t).

    ``nll`` (b,) float64: the sum of -log p of tokens 2..t in nats; ``tokens`` (b,): how many those
    are; ``hits`` (b,): how many were the likeliest.
    """
    ahead = tokens[:, 1:]
    # A text at a time: the float32 copy of a large vocabulary's logits is never whole.
    losses = [
        nn.functional.cross_entropy(row[:-1].float(), text, reduction="sum").double()
        for row, text in zip(logits, ahead, strict=True)
    ]
    return {
        "nll": torch.stack(losses),
        "tokens": torch.full_like(ahead[:, 0], ahead.shape[1]),
        "hits": (logits[:, :-1].argmax(-1) == ahead).sum(1),
    }


def perplexity(nll: Tensor, tokens: Tensor) -> float:
    """exp(sum of ``nll`` / sum of ``tokens``): 1 for a model that knows every next token."""
    return (nll.double().sum() / tokens.sum()).exp().item()

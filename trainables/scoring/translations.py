"""BLEU and chrF of translations, as sacrebleu computes them, from sums over sentences.

Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"; Popović
2015, "chrF: character n-gram F-score"; Post 2018, "A call for clarity in reporting BLEU scores".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from compression.registry import InvalidSetting

NAMES = ("bleu", "chrf")


def require_sacrebleu() -> None:
    """Find out whether sacrebleu is there.

    Raises:
        InvalidSetting: it is not; says how to get it.
    """
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        raise InvalidSetting(["BLEU needs sacrebleu: pip install 'paretune[text]'"]) from None


@cache
def _metrics() -> dict[str, Any]:
    """By name, with sacrebleu's defaults; ``force`` only says not to warn of tokenised texts."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return dict(zip(NAMES, (BLEU(force=True), CHRF()), strict=True))


def counts(translations: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
    """What each pair adds to the sums that the scores are made of, int64.

    ``bleu`` (b, 10): lengths, and n-grams of 1 to 4 words that are right, and in all. ``chrf``
    (b, 18): n-grams of 1 to 6 characters in the translation, in the reference, and in both.
    """
    # sacrebleu sums these itself, over all sentences at once; it has no public way to stop before.
    return {
        name: torch.tensor(metric._extract_corpus_statistics(translations, [references]))
        for name, metric in _metrics().items()
    }


def scores(observed: Mapping[str, Tensor]) -> dict[str, float]:
    """``bleu`` and ``chrf`` of :func:`counts` over any sentences: fractions."""
    return {
        name: min(1.0, metric._compute_score_from_stats(observed[name].sum(0).tolist()).score / 100)
        for name, metric in _metrics().items()
    }

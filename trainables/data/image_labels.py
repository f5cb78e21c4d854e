"""Labels as they are given, to numbers from 0 and the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compression.registry import InvalidSetting
from trainables.data.image_checks import few

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
MANY = 21_843  # classes of ImageNet-21k, the most that published classifiers tell apart
FAR = 10  # so many labels for each that occurs are no numbers of classes, but ids


def number(
    values: Iterable[Any], images: Sequence[str], key: str, source: str
) -> tuple[list[int], tuple[str, ...]]:
    """Labels from 0 and the classes' names: numbers stay as they are, names are put in order.

    Args:
        values: one an image: all of them whole numbers (2.0 is one, and "2"), or names.
        images: what the images are called in errors.
        key: the setting that errors begin with.
        source: where the values are from.

    Raises:
        InvalidSetting: labels that are missing, below 0 or fractions, counted and some named;
            a label far above the number of those that occur.
    """
    texts = ["" if value is None else str(value).strip() for value in values]
    if all(NUMBER.fullmatch(text) for text in texts if text):
        return _numbers(texts, images, key, source)
    _refuse({"no label": np.array([not text for text in texts])}, images, key, source)
    classes = in_order(set(texts))
    place = {name: label for label, name in enumerate(classes)}
    return [place[text] for text in texts], classes


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels: numbers by size, then words by letters."""
    return tuple(sorted(names, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n)))


def _numbers(
    texts: Sequence[str], images: Sequence[str], key: str, source: str
) -> tuple[list[int], tuple[str, ...]]:
    found = np.array([float(text) if text else np.nan for text in texts])
    missing, below = np.isnan(found), found < 0
    with np.errstate(invalid="ignore"):  # infinity has no remainder
        broken = (found % 1 != 0) & ~missing & ~below
    wrong = {"no label": missing, "labels below 0": below, "labels that are not whole": broken}
    _refuse(wrong, images, key, source)
    largest, different = found.max(initial=-1), len(np.unique(found))
    if largest >= max(MANY, FAR * different):
        raise InvalidSetting(
            [
                f"{key}: labels out of range: the largest in '{source}' is {largest:.0f}, "
                f"{different} different ones occur; expected numbers of classes, from 0"
            ]
        )
    return found.astype(np.int64).tolist(), tuple(map(str, range(int(largest) + 1)))


def _refuse(wrong: dict[str, np.ndarray], images: Sequence[str], key: str, source: str) -> None:
    named = {
        what: [images[i] for i in np.flatnonzero(rows).tolist()] for what, rows in wrong.items()
    }
    errors = [f"{key}: {what} of {few(n, 'image')} in '{source}'" for what, n in named.items() if n]
    if errors:
        raise InvalidSetting(errors)

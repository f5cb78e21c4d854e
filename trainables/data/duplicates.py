"""Texts that say the same as an earlier one: they would stand on both sides of a split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.8
"""Jaccard similarity of two texts' shingles from which one is a near-duplicate of the other."""
SHINGLE = 3  # words
BANDS, ROWS = 16, 4  # of the signature: a pair at the threshold shares a band 1 - (1-0.8^4)^16
NEXT = 50
"""Texts with the same band with which each is compared: a bound on what boilerplate costs."""

Words = NDArray[np.uint64]
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Duplicates:
    """``keep`` (n,) bool: the first of each group; how many of the others are exact, how many near.

    Exact: the same words in the same order, case and punctuation aside.
    """

    keep: NDArray[np.bool_]
    exact: int
    near: int


def find_duplicates(texts: Sequence[str]) -> Duplicates:
    """Groups of texts that are equal or near: similar to one that is similar to ... in turn.

    Candidates share one of 16 bands of a MinHash signature of 64 hashes; each pair of them is then
    compared exactly. Of pairs at the threshold 99.98% share a band, of more similar ones more. In a
    band that over 50 texts share each is compared with the 50 that follow it, so that of many that
    are much alike without being near-duplicates a pair may be missed. Broder 1997,
    doi:10.1109/SEQUEN.1997.666900.
    """
    words = [normalised(text) for text in texts]
    firsts: dict[str, int] = {}
    for row, text in enumerate(words):
        firsts.setdefault(text, row)
    rows = np.fromiter(firsts.values(), np.int64, len(firsts))
    shingles, starts = _shingles([words[row] for row in rows])
    group = np.arange(len(rows))
    for one, two in _candidates(shingles, starts):
        if _similar(shingles, starts, one, two):
            _join(group, one, two)
    first = np.array([_root(group, i) == i for i in range(len(rows))], dtype=bool)
    keep = np.zeros(len(texts), dtype=bool)
    keep[rows[first]] = True
    return Duplicates(keep, len(texts) - len(rows), int((~first).sum()))


def normalised(text: str) -> str:
    """The words alone: compatibility forms unified, case folded, one blank between."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _shingles(texts: Sequence[str]) -> tuple[Words, NDArray[np.int64]]:
    """Hashes of every three words in a row, all texts end to end, and where each text begins.

    A text of fewer words is one shingle.
    """
    numbers: dict[str, int] = {}
    split = [text.split() or [""] for text in texts]
    split = [[""] * (SHINGLE - len(one)) + one for one in split]
    ids = np.fromiter(
        (numbers.setdefault(word, len(numbers)) for one in split for word in one), np.uint64
    )
    lengths = np.fromiter(map(len, split), np.int64, len(split))
    hashed = np.zeros(len(ids) - SHINGLE + 1 if len(ids) else 0, np.uint64)
    for place in range(SHINGLE):
        hashed = _mix(hashed + ids[place : place + len(hashed)] + np.uint64(1))
    inside = np.ones(len(ids), bool)
    ends = lengths.cumsum()
    for back in range(1, SHINGLE):  # shingles that would run over into the next text
        inside[ends - back] = False
    counts = lengths - SHINGLE + 1
    return hashed[inside[: len(hashed)]], np.concatenate([[0], counts.cumsum()])


def _mix(values: Words) -> Words:
    """A bijection of 64 bits that looks random (SplitMix64's finaliser, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(shingles: Words, starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that agree in a whole band of their signatures, each once.

    Each text comes with the :data:`NEXT` after it that have the band.
    """
    if len(starts) < 3:
        return
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        key = np.zeros(len(starts) - 1, np.uint64)
        for row in range(ROWS):
            salt = _mix(np.array([band * ROWS + row + 1], np.uint64))
            key = _mix(key + np.minimum.reduceat(_mix(shingles ^ salt), starts[:-1]))
        order = np.argsort(key, kind="stable")
        key = key[order]
        for ahead in range(1, NEXT + 1):
            equal = np.flatnonzero(key[ahead:] == key[:-ahead])
            if not len(equal):
                break
            found.update(zip(order[equal].tolist(), order[equal + ahead].tolist(), strict=True))
    yield from sorted(found)


def _similar(shingles: Words, starts: NDArray[np.int64], one: int, two: int) -> bool:
    a, b = (np.unique(shingles[starts[i] : starts[i + 1]]) for i in (one, two))
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both >= THRESHOLD * (len(a) + len(b) - both)


def _root(group: NDArray[np.int64], i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = int(group[i])
    return i


def _join(group: NDArray[np.int64], one: int, two: int) -> None:
    """The earlier text stands for both."""
    one, two = sorted((_root(group, one), _root(group, two)))
    group[two] = one

"""Texts as token ids: split, tokenised once, batched with others of their length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from compression.registry import InvalidSetting
from trainables.cache import cached
from trainables.models.language import padding
from trainables.splits import Inputs, Split

POOL = 50
"""Batches whose examples are sorted by length together."""
FRACTIONS = (0.8, 0.1, 0.1)  # train, validation, test


@dataclass(frozen=True, eq=False)
class TextSplit(Split):
    """Texts of different lengths, end to end: ``tokens`` (total,) int32, ``offsets`` (n + 1,).

    Inputs are ``input_ids`` and ``attention_mask``, (b, longest of the batch) int64, padded on the
    right with ``pad``.
    """

    tokens: Tensor
    offsets: Tensor
    labels: Tensor
    pad: int

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each text, (n,) int64."""
        return self.offsets.diff()

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`Split`."""
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = places < lengths[:, None]
        index = (self.offsets[rows][:, None] + places).clamp(max=len(self.tokens) - 1)
        ids = self.tokens[index].long().masked_fill(~mask, self.pad)
        return {"input_ids": ids, "attention_mask": mask.long()}

    def order(self, size: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Each text once, in batches of like lengths.

        Without a generator the shortest come first. With one, :data:`POOL` batches are drawn at a
        time and sorted within, and the batches come in random order: which texts meet in a batch,
        and when, changes with every epoch.
        """
        if generator is None:
            yield from self.lengths.argsort(stable=True).split(size)  # type: ignore[no-untyped-call]
            return
        drawn = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in drawn.split(POOL * size):  # type: ignore[no-untyped-call]
            batches += pool[self.lengths[pool].argsort(stable=True)].split(size)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]

    @cached_property
    def digest(self) -> str:
        """See :class:`Split`."""
        found = hashlib.sha256(f"pad {self.pad}".encode())
        for tensor in (self.tokens, self.offsets):
            found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> TextSplit:
        """Some of the texts, in the order of ``rows``."""
        lengths = self.lengths[rows]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
        index = self.offsets[rows].repeat_interleave(lengths) + within
        return TextSplit(self.tokens[index], offsets, self.labels[rows], self.pad)


@dataclass(frozen=True)
class Tokenised:
    """All texts in one split, and how many of them were cut to the longest length allowed."""

    texts: TextSplit
    cut: int


def tokenise(
    tokenizer: Any, key: str, texts: Sequence[str], labels: NDArray[np.int64], longest: int
) -> Tokenised:
    """Token ids of the texts by a fast Hugging Face tokenizer, kept in the cache.

    ``key`` names the tokenizer's content. Texts of more than ``longest`` tokens lose their end.

    Raises:
        InvalidSetting: a text that gives no token at all; the rows are named.
    """

    def make() -> bytes:
        found = tokenizer(list(texts), truncation=True, max_length=longest)
        flat = np.fromiter((i for ids in found["input_ids"] for i in ids), np.int32)
        counts = np.fromiter(map(len, found["input_ids"]), np.int64, len(texts))
        return safetensors.torch.save(
            {
                "tokens": torch.from_numpy(flat),
                "offsets": torch.from_numpy(np.concatenate([[0], counts.cumsum()])),
                "cut": torch.tensor(sum(bool(e.overflowing) for e in found.encodings)),
            }
        )

    content = hashlib.sha256("\0".join(texts).encode())
    found = safetensors.torch.load(cached(f"tokens 1|{key}|{longest}|{content.hexdigest()}", make))
    offsets = found["offsets"]
    if empty := (offsets.diff() == 0).nonzero()[:, 0].tolist():
        raise InvalidSetting(
            [f"{len(empty)} texts give no token, the first is {texts[empty[0]]!r}"]
        )
    split = TextSplit(found["tokens"], offsets, torch.from_numpy(labels), padding(tokenizer))
    return Tokenised(split, int(found["cut"]))


def stratified(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Rows of train, validation and test (80/10/10), disjoint, each class in its share in each.

    Raises:
        InvalidSetting: a class with fewer than 10 texts; all of them are named.
    """
    counts = np.bincount(labels)
    if few := [f"class {c} has {n} texts" for c, n in enumerate(counts.tolist()) if n < 10]:
        raise InvalidSetting([f"{', '.join(few)}: a split of 80/10/10 needs 10 of each class"])
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    draw = np.random.default_rng(seed)
    for label in range(len(counts)):
        rows = draw.permutation((labels == label).nonzero()[0])
        ends = np.rint(np.cumsum(FRACTIONS) * len(rows)).astype(np.int64)
        for part, found in zip(parts, np.split(rows, ends[:-1]), strict=True):
            part.append(found)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def limited(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """At most ``limit`` of so many rows, drawn at random, in order; all of them, if it is 0."""
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])

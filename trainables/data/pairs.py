"""Sentences and their translations: read, split, and as tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compression.registry import InvalidSetting
from trainables.cache import cached
from trainables.data.duplicates import find_duplicates
from trainables.data.parallel import sentence_pairs
from trainables.data.text_tables import EMPTY_SHARE, Source, check_columns, did_you_mean
from trainables.data.texts import FRACTIONS, TextSplit
from trainables.models.translation import SPECIAL, TEACHER
from trainables.splits import Inputs, StandIn

SYNTHETIC = "synthetic"
SIZES = (4000, 400, 800)
"""Synthetic pairs of train, validation and test."""
FEWEST = 30
"""Pairs of a file that can be split."""
IGNORED = -100
"""Label of a place behind the end of a translation."""
_WORDS = (2000, 20_261)  # synthetic pairs for a tokenizer, and a seed that is nobody's


class Pairs(NamedTuple):
    """Texts in two languages, one the other's translation, and what was left out of them."""

    sources: list[str]
    targets: list[str]
    notes: tuple[str, ...] = ()

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """Some of them."""
        kept = rows.tolist()
        return Pairs([self.sources[i] for i in kept], [self.targets[i] for i in kept])

    def first(self, count: int) -> Pairs:
        """The first of them; all, if it is 0."""
        return self.take(np.arange(len(self.sources))[: count or None])


def read(data: str, source: str, target: str) -> Pairs:
    """The pairs of a Parquet or CSV file, texts stripped.

    Pairs without one of both texts are left out, and of sources that are the same or nearly so
    (:mod:`trainables.data.duplicates`) all but the first.

    Raises:
        InvalidSetting: no such file or column, a column without text, too many empty texts, fewer
            than :data:`FEWEST` pairs.
    """
    check(data, source, target)
    columns = [
        [(text or "").strip() for text in column] for column in _columns(data, source, target)
    ]
    full = [row for row in zip(*columns, strict=True) if all(row)]
    empty = len(columns[0]) - len(full)
    said = f"{data}: {empty} of {len(columns[0])} pairs lack a text"
    if empty > EMPTY_SHARE * len(columns[0]):
        raise InvalidSetting(
            [f"{said}, more than {EMPTY_SHARE:.0%}: are '{source}' and '{target}' right?"]
        )
    found = find_duplicates([text for text, _ in full])
    kept = [full[row] for row in found.keep.nonzero()[0].tolist()]
    if len(kept) < FEWEST:
        raise InvalidSetting([f"{data}: has {len(kept)} different pairs, a split needs {FEWEST}"])
    repeated = f"{data}: {found.exact + found.near} pairs left out whose source is as another's"
    notes = [f"{said}; left out"] * bool(empty) + [repeated] * bool(found.exact + found.near)
    return Pairs([text for text, _ in kept], [text for _, text in kept], tuple(notes))


def check(data: str, source: str, target: str) -> None:
    """Find out whether the file and its columns are there and hold text.

    Raises:
        InvalidSetting: all that is wrong with them.
    """
    if data == SYNTHETIC:
        return
    path = Path(data).expanduser()
    if not path.is_file():
        raise InvalidSetting([f"data: there is no file '{data}'{did_you_mean(path)}"])
    check_columns(Source(str(path), f"{source},{target}"))


def _columns(data: str, *names: str) -> list[list[str | None]]:
    """Columns of a file that was checked."""
    path = Path(data).expanduser()
    if path.read_bytes()[:4] == b"PAR1":
        from pyarrow import parquet

        table = parquet.read_table(path, columns=list(names))
    else:
        from pyarrow import csv

        tab = path.suffix.lower() in (".tsv", ".tab")
        parse = csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=True)
        table = csv.read_csv(path, parse_options=parse)
    return [table.column(name).to_pylist() for name in names]


def divided(data: str, source: str, target: str, seed: int) -> tuple[Pairs, Pairs, Pairs]:
    """Train, validation and test, drawn by the seed; no source is in two of them.

    Synthetic pairs are made for the seed, :data:`SIZES` of them; those of a file are split
    80/10/10.

    Raises:
        InvalidSetting: as :func:`read`.
    """
    if data == SYNTHETIC:
        made = sentence_pairs(sum(SIZES), seed)
        every, sizes = Pairs([s for s, _ in made], [t for _, t in made]), np.array(SIZES)
        order = np.arange(len(made))
    else:
        every = read(data, source, target)
        order = np.random.default_rng(seed).permutation(len(every.sources))
        sizes = np.array(FRACTIONS) * len(order)
    ends = np.rint(np.cumsum(sizes)).astype(np.int64)[:-1]
    train, validation, test = (every.take(np.sort(rows)) for rows in np.split(order, ends))
    return train._replace(notes=every.notes), validation, test


def subwords(vocabulary: int) -> Any:
    """A byte-level BPE tokenizer, as transformers takes it.

    One for every seed, as a task has no other to give its workers. So it is made of synthetic
    sentences that are drawn for it alone: one of a file's texts would know those of test. Being of
    bytes it takes any other text too, in more pieces.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    texts = [text for pair in sentence_pairs(*_WORDS) for text in pair]
    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    key = f"bpe of pairs 1|{vocabulary}|{content}"
    raw = Tokenizer.from_str(cached(key, lambda: _trained(texts, vocabulary)).decode())
    pad, end = SPECIAL
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=raw, pad_token=pad, eos_token=end)


def _trained(texts: Sequence[str], vocabulary: int) -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    # With a blank in front the first word of a text is the same token as elsewhere.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return str(tokenizer.to_str()).encode()


def target_ids(tokenizer: Any, texts: Sequence[str], longest: int, end: int) -> NDArray[np.int64]:
    """Tokens of translations, (n, t up to ``longest``), each with its end, then :data:`IGNORED`.

    The last column is free: :class:`TaughtSplit` says why.
    """
    room = longest - 2  # for the end where a tokenizer sets none, and for the free column
    found = tokenizer(text_target=list(texts), truncation=True, max_length=room)["input_ids"]
    ids = [row if row[-1:] == [end] else [*row, end] for row in found]
    labels = np.full((len(ids), max(map(len, ids)) + 1), IGNORED)
    for row, tokens in zip(labels, ids, strict=True):
        row[: len(tokens)] = tokens
    return labels


def text_bytes(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts as UTF-8, (n, longest), zeros behind them."""
    raw = [text.replace("\0", "").encode() for text in texts]
    return np.array(raw, dtype=bytes).view(np.uint8).reshape(len(raw), -1)


def bytes_text(row: Tensor) -> str:
    """The text in a row of :func:`text_bytes`."""
    return row.numpy().tobytes().rstrip(b"\0").decode()


class TaughtSplit(StandIn):
    """Sources with the translations that are to be foretold: these are :data:`TEACHER` inputs.

    They are the labels, (n, t), one place further on, behind ``start``: (b, longest of the batch).
    Where that is as long as the sources it is one longer: the mask of the sources, which
    calibration applies to what it fits, must not fit what is made of translations.
    """

    def __init__(self, base: TextSplit, start: int) -> None:
        super().__init__(base)
        self.start, self.pad = start, base.pad

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`~trainables.splits.Split`."""
        sources, tokens = self.base.inputs(rows), self.labels[rows]
        if isinstance(sources, Tensor):
            raise TypeError("sources go by keyword")
        length = int((tokens != IGNORED).sum(1).max())
        length += length == sources["input_ids"].shape[1]
        before = tokens.roll(1, 1)[:, :length]
        before[:, 0] = self.start
        return {**sources, TEACHER: before.masked_fill(before == IGNORED, self.pad)}

    @cached_property
    def _digest(self) -> str:
        taught = self.labels.numpy().tobytes()
        return hashlib.sha256(f"{self.base.digest}|{self.start}|".encode() + taught).hexdigest()

    @property
    def digest(self) -> str:
        """See :class:`~trainables.splits.Split`."""
        return self._digest

"""Running text as blocks of tokens, split by contiguous parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compression.registry import InvalidSetting
from trainables.cache import cached
from trainables.data.text_tables import Source, did_you_mean, documents
from trainables.splits import TensorSplit, map_inputs

PYTHON_DOCS = "python-docs"
PARTS = 50
"""Contiguous parts of a text; 40 are trained on, 5 validated, 5 tested, drawn by the seed."""
HELD_OUT = 5
_TABLES = (".parquet", ".csv", ".tsv")


class Corpus(NamedTuple):
    """A text in parts of equal length that end with a line, and what was left out of it."""

    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read(data: str, column: str) -> Corpus:
    """``python-docs``, a text file, a folder of ``.txt`` files, or a column of a table.

    ``python-docs`` is what Python's own ``help()`` shows on its topics, the same in every copy of
    one version of Python.

    Raises:
        InvalidSetting: no such file or column, or no text in it.
    """
    found, notes = _documents(data, column)
    text = "\n\n".join(found)
    if not text.strip():
        raise InvalidSetting([f"data: '{data}' holds no text"])
    ends = [0]
    for i in range(1, PARTS):
        start = max(ends[-1], i * len(text) // PARTS)
        ends.append(text.find("\n", start) + 1 or start)
    bounds = zip(ends, [*ends[1:], len(text)], strict=True)
    return Corpus(tuple(text[start:end] for start, end in bounds), notes)


def _documents(data: str, column: str) -> tuple[list[str], tuple[str, ...]]:
    if data == PYTHON_DOCS:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)], ()
    path = Path(data).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise InvalidSetting([f"data: no .txt file is in the folder '{data}'"])
        return [_text(file) for file in files], ()
    if path.suffix.lower() in _TABLES:
        return documents(Source(data, column))
    if path.is_file():
        return [_text(path)], ()
    raise InvalidSetting([f"data: there is no file or folder '{data}'{did_you_mean(path)}"])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSetting([f"data: '{file}' is no UTF-8 text: byte {error.start}"]) from error


def divided(corpus: Corpus, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Parts of train, validation and test, each in the order of the text."""
    drawn = np.random.default_rng(seed).permutation(PARTS)
    test, validation, train = np.split(drawn, [HELD_OUT, 2 * HELD_OUT])
    return tuple(  # type: ignore[return-value]
        [corpus.parts[i] for i in sorted(rows.tolist())] for rows in (train, validation, test)
    )


def blocks(tokenizer: Any, parts: Sequence[str], length: int, what: str) -> TensorSplit:
    """The parts in blocks of ``length`` tokens that overlap nowhere; a part's last tokens go.

    Inputs are ``input_ids`` (n, length). Labels are (n, 1 + length): the bytes of the text that
    tokens 2 to ``length`` stand for, then the tokens.

    Raises:
        InvalidSetting: the text is too short for one block.
    """
    rows: list[list[int]] = []
    for part, found in zip(parts, tokenizer.encode_batch(parts, False), strict=True):
        for start in range(0, len(found.ids) - length + 1, length):
            begin, end = found.offsets[start][1], found.offsets[start + length - 1][1]
            size = len(part[begin:end].encode())
            rows.append([size, *found.ids[start : start + length]])
    if not rows:
        raise InvalidSetting(
            [f"block: the {what} text, in {len(parts)} parts, has none of {length} tokens in a row"]
        )
    labels = torch.tensor(rows)
    return TensorSplit({"input_ids": labels[:, 1:].contiguous()}, labels)


def first(split: TensorSplit, count: int) -> TensorSplit:
    """The first blocks of a split."""
    return TensorSplit(map_inputs(lambda t: t[:count], split.tensors), split.labels[:count])


def tokens_of(labels: Tensor) -> Tensor:
    """The tokens in the labels of :func:`blocks`, (b, length)."""
    return labels[:, 1:]


@cache
def _trained(texts: tuple[str, ...], vocabulary: int) -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    def make() -> bytes:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return str(tokenizer.to_str()).encode()

    import tokenizers

    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return cached(f"byte-level bpe|{tokenizers.__version__}|{vocabulary}|{content}", make)


def byte_pairs(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of at most ``vocabulary`` tokens, trained on these texts alone."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(tuple(texts), vocabulary).decode())

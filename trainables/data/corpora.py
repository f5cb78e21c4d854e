"""Running text as blocks of tokens, split by documents or paragraphs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compression.registry import InvalidSetting
from trainables.cache import cached
from trainables.data.text_tables import Source, check_columns, did_you_mean, documents
from trainables.splits import TensorSplit, map_inputs

PYTHON_DOCS = "python-docs"
PARTS = 100
"""At most so many parts has a text, fewer where whole documents are longer."""
HELD_OUT = 0.1
"""Share of the text that validates; as much tests."""
DOCUMENTS = 10
"""Of fewer documents a split can't be made: they are cut as one text."""
_BETWEEN = "\n\n"
_BORDERS = (_BETWEEN, "\n", " ")
_TABLES = (".parquet", ".csv", ".tsv")


class Corpus(NamedTuple):
    """A text in parts, each of which goes to one split, and what was left out of it."""

    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read(data: str, column: str) -> Corpus:
    """``python-docs``, a text file, a folder of ``.txt`` files, or a column of a table.

    A part is one document or several in a row: none is in two parts. Documents are the topics of
    ``python-docs``, the files of a folder, the rows of a table. A text of fewer than ten documents
    is cut between paragraphs (without blank lines: lines, then words), so that neighbouring
    paragraphs of it may be in two splits.

    ``python-docs`` is what Python's own ``help()`` shows on its topics, the same in every copy of
    one version of Python.

    Raises:
        InvalidSetting: no such file or column, or no text in it, or too little to divide.
    """
    found, notes = _documents(data, column)
    parts = _parts([document for document in found if document.strip()])
    if not parts:
        raise InvalidSetting([f"data: '{data}' holds no text"])
    if len(parts) < 3:
        raise InvalidSetting(
            [f"data: '{data}' is too short: training, validation and test need a part each"]
        )
    return Corpus(parts, notes)


def check(data: str, column: str) -> None:
    """Find out what is wrong with the data; of a table only whether the column is there.

    Raises:
        InvalidSetting: as :func:`read`.
    """
    if Path(data).suffix.lower() in _TABLES and Path(data).expanduser().is_file():
        check_columns(Source(str(Path(data).expanduser()), column))
    else:
        read(data, column)


def _parts(found: Sequence[str]) -> tuple[str, ...]:
    """The documents, or the paragraphs of a few, in parts about as long as each other."""
    text = _BETWEEN.join(found)
    whole = np.cumsum([len(document) + len(_BETWEEN) for document in found])
    mark = next((m for m in _BORDERS if text.count(m) >= PARTS), _BORDERS[-1])

    def border(place: int) -> int:
        """The first place from this one on where the text may be cut."""
        if len(found) >= DOCUMENTS:
            return int(whole[np.searchsorted(whole, place)])
        cut = text.find(mark, place)
        return len(text) if cut < 0 else cut + len(mark)

    cuts = {min(border(i * len(text) // PARTS), len(text)) for i in range(1, PARTS)}
    return tuple(text[a:b] for a, b in pairwise(sorted(cuts | {0, len(text)})))


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
        return documents(Source(str(path), column))
    if path.is_file():
        return [_text(path)], ()
    raise InvalidSetting([f"data: there is no file or folder '{data}'{did_you_mean(path)}"])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSetting([f"data: '{file}' is no UTF-8 text: byte {error.start}"]) from error


def divided(corpus: Corpus, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Parts of train, validation and test, each in the order of the text.

    Parts are drawn for test, then for validation, until each has its share of the characters as
    nearly as they allow; parts longer than a share are trained on.
    """
    lengths = np.array([len(part) for part in corpus.parts])
    share = HELD_OUT * lengths.sum()
    drawn = np.random.default_rng(seed).permutation(len(lengths))
    drawn = drawn[np.argsort(lengths[drawn] > share, kind="stable")]
    test, rest = _taken(drawn, lengths, share, leave=2)
    validation, train = _taken(rest, lengths, share, leave=1)
    return tuple(  # type: ignore[return-value]
        [corpus.parts[i] for i in sorted(rows.tolist())] for rows in (train, validation, test)
    )


def _taken(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], share: float, leave: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As many rows from the front as come nearest to the share, at least one; and the others."""
    middles = lengths[rows].cumsum() - lengths[rows] / 2
    count = int(np.searchsorted(middles, share, side="right"))
    count = min(max(1, count), len(rows) - leave)
    return rows[:count], rows[count:]


def blocks(tokenizer: Any, parts: Sequence[str], length: int, what: str) -> TensorSplit:
    """The parts in blocks of ``length`` tokens that overlap nowhere; a part's last tokens go.

    Inputs are ``input_ids`` (n, length). Labels are (n, 1 + length): the bytes of the text that
    tokens 2 to ``length`` stand for, then the tokens. Groups are the numbers of the parts.

    Raises:
        InvalidSetting: the text is too short for one block.
    """
    rows: list[list[int]] = []
    groups: list[int] = []
    encoded = tokenizer.encode_batch(parts, False)
    for number, (part, found) in enumerate(zip(parts, encoded, strict=True)):
        for start in range(0, len(found.ids) - length + 1, length):
            begin, end = found.offsets[start][1], found.offsets[start + length - 1][1]
            size = len(part[begin:end].encode())
            rows.append([size, *found.ids[start : start + length]])
            groups.append(number)
    if not rows:
        raise InvalidSetting(
            [f"block: the {what} text, in {len(parts)} parts, has none of {length} tokens in a row"]
        )
    labels = torch.tensor(rows)
    inputs = {"input_ids": labels[:, 1:].contiguous()}
    return TensorSplit(inputs, labels, torch.tensor(groups))


def first(split: TensorSplit, count: int) -> TensorSplit:
    """The first blocks of a split."""
    groups = None if split.groups is None else split.groups[:count]
    inputs = map_inputs(lambda tensor: tensor[:count], split.tensors)
    return TensorSplit(inputs, split.labels[:count], groups)


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

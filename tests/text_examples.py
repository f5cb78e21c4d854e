"""Tiny models, tokenizers and texts, made without a network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

FRUIT = "apple pear plum cherry quince mango grape fig".split()
METAL = "iron copper zinc nickel silver lead cobalt tin".split()
OTHER = [
    a + b for a in "ba de ki lo mu na po ru".split() for b in "st rn lk mp ft ck ng nd".split()
]
WIDTHS = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def reviews(count: int = 400, share: float = 0.7, seed: int = 0) -> list[tuple[str, int]]:
    """Texts of 4 to 30 words, about fruit (1, this share of them) or metal (0)."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        label = int(i < share * count)
        topic = draw.choices(FRUIT if label else METAL, k=draw.randint(2, 6))
        words = topic + draw.choices(OTHER, k=draw.randint(2, 24))
        draw.shuffle(words)
        found.append((" ".join(words), label))
    draw.shuffle(found)
    return found


def tokenizer_file(folder: Path) -> None:
    """A tokenizer of whole words with [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    words = {word: i for i, word in enumerate(special + FRUIT + METAL + OTHER)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        eos_token="[SEP]",
    ).save_pretrained(folder)


def save(model: Any, folder: Path) -> Path:
    """A model's folder with the tokenizer in it."""
    model.save_pretrained(folder)
    tokenizer_file(folder)
    return folder


def encoder(folder: Path, **changes: Any) -> Path:
    """The folder of a BERT with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    return save(BertModel(BertConfig(**WIDTHS | changes)), folder)


def csv_file(file: Path, rows: list[tuple[str, int]], text: str = "text", label: str = "label"):
    """A CSV file of texts and labels."""
    lines = [f"{text},{label}", *(f'"{words}",{number}' for words, number in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def text_classification(folder: Path) -> dict[str, Any]:
    """Settings of the task."""
    return {
        "model": str(encoder(folder / "bert")),
        "data": str(csv_file(folder / "topics.csv", reviews())),
        "max_length": 32,
        "epochs": 6,
        "lr": 3e-3,
        "batch_size": 16,
    }


def product_reviews(folder: Path) -> dict[str, Any]:
    """Settings of the task with another model and other texts in columns of the same names."""
    import pyarrow as pa
    from pyarrow import parquet

    texts, labels = zip(*reviews(seed=1), strict=True)
    table = pa.table({"Review Text": list(texts), "Recommended IND": list(labels)})
    parquet.write_table(table, folder / "reviews.parquet")
    small = text_classification(folder)
    return small | {"data": str(folder / "reviews.parquet")}


def causal_lm(folder: Path) -> dict[str, Any]:
    """Settings of the task: texts in which topics stay the same for a line."""
    lines = [f"{words}." for words, _ in reviews(1200, seed=2)]
    (folder / "lines.txt").write_text("\n".join(lines))
    return {
        "data": str(folder / "lines.txt"),
        "block": 16,
        "width": 32,
        "depth": 2,
        "vocabulary": 300,
        "epochs": 1,
        "limit": 200,
    }

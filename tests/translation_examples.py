"""Tiny encoder-decoders, a tokenizer and parallel texts, made without a network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from trainables.data.pairs import SPECIAL, _trained
from trainables.data.parallel import sentence_pairs
from trainables.tasks import TASKS, Task

VOCABULARY = 400
PAIRS = 300
WIDTHS = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
BART = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("MarianConfig", WIDTHS | BART),
    "bart": ("BartConfig", WIDTHS | BART | {"bos_token_id": 2, "forced_eos_token_id": 1}),
    "mbart": ("MBartConfig", WIDTHS | BART | {"forced_eos_token_id": 1}),
    "t5": ("T5Config", WIDTHS | T5),
    "mt5 untied": ("MT5Config", WIDTHS | T5),
    "t5 untied": (
        "T5Config",
        WIDTHS | T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}


def table(file: Path, rows: list[tuple[str, str]], names: tuple[str, str] = ("source", "target")):
    """A CSV file of pairs."""
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([names, *rows])
    return file


def seq2seq(folder: Path) -> dict[str, Any]:
    """Settings of the task with a small model of two layers and few pairs."""
    return {
        "data": str(table(folder / "pairs.csv", sentence_pairs(PAIRS, 7))),
        "width": 32,
        "depth": 1,
        "vocabulary": VOCABULARY,
        "max_length": 56,
        "epochs": 2,
        "primary": "chrf",
    }


def tokenizer_file(folder: Path) -> None:
    """A byte-level BPE, trained on sentences of the grammar, with the token of a language."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    texts = [text for pair in sentence_pairs(200, 8) for text in pair]
    raw = Tokenizer.from_str(_trained(texts, VOCABULARY - 1).decode())
    pad, end = SPECIAL
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, eos_token=end, extra_special_tokens=["de_DE"]
    ).save_pretrained(folder)


def model_folder(folder: Path, name: str) -> Path:
    """An encoder-decoder with random weights, larger than a fresh one's, and its tokenizer."""
    import transformers

    kind, settings = CONFIGS[name]
    torch.manual_seed(3)
    model = transformers.AutoModelForSeq2SeqLM.from_config(getattr(transformers, kind)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
        if name.endswith("untied"):
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32))
    model.save_pretrained(folder)
    tokenizer_file(folder)
    return folder


def own(folder: Path, name: str, **more: Any) -> Task:
    """The task on a model's folder."""
    settings = seq2seq(folder)
    kept = {key: settings[key] for key in ("data", "max_length", "primary")}
    model = model_folder(folder / "model", name)
    return TASKS.build("seq2seq", kept | {"model": str(model)} | more)

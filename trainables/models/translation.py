"""Hugging Face encoder-decoders: made from a configuration, and how they write a translation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from compression.registry import InvalidSetting
from trainables.models import language
from trainables.splits import Inputs

PAD, END = 0, 1
"""Ids of the small model's special tokens; its translations begin behind a ``PAD``."""
SPECIAL = ("<pad>", "</s>")
TEACHER = "decoder_input_ids"
"""The input that holds the translation so far: a model given it foretells, one without writes."""


class Writing(NamedTuple):
    """How a model writes: special tokens by id, and how many tokens a translation may have.

    It stands behind ``start``; ``first`` is a token that each translation begins with, if any.
    """

    start: int
    end: int
    pad: int
    longest: int
    first: int | None = None


def small_config(vocabulary: int, width: int, depth: int, length: int) -> Any:
    """A Marian of ``depth`` layers a side with 4 heads; embeddings and head are one matrix."""
    from transformers import MarianConfig

    return MarianConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=depth,
        decoder_layers=depth,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_position_embeddings=length,
        scale_embedding=True,
        init_std=width**-0.5,  # times the scale: embeddings of variance 1
        dropout=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
        forced_eos_token_id=None,
    )


def writing_of(config: Any, folder: Path, longest: int, first: int | None) -> Writing:
    """What a model's folder says on writing.

    Raises:
        InvalidSetting: no encoder-decoder; or nobody says how a translation begins or ends.
    """
    from transformers import GenerationConfig

    kind: Any = GenerationConfig
    if not config.is_encoder_decoder:
        raise InvalidSetting([f"model: '{folder}' is a {config.model_type}, no encoder-decoder"])
    given = folder / "generation_config.json"
    known = kind.from_pretrained(folder) if given.exists() else None
    names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    start, end, pad = (_token(name, config, known) for name in names)
    if start is None:
        start = pad if config.model_type == "t5" else None  # where T5's own code begins
    if start is None or end is None:
        lacking = [n for n, i in zip(names, (start, end), strict=False) if i is None]
        raise InvalidSetting([f"model: the config.json in '{folder}' has no {', '.join(lacking)}"])
    return Writing(start, end, end if pad is None else pad, longest, first)


def _token(name: str, *sources: Any) -> int | None:
    found = (getattr(source, name, None) for source in sources)
    ids = [value[0] if isinstance(value, list) else value for value in found if value is not None]
    return int(ids[0]) if ids else None


def encoder_decoder(config: Any, writing: Writing, device: str = "cpu") -> nn.Module:
    """An encoder-decoder of that configuration: random weights, the same at every call.

    On the device ``meta`` it has none, and costs next to nothing.

    Raises:
        InvalidSetting: transformers has no encoder-decoder of that kind.
    """
    from transformers import AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        try:
            model: nn.Module = kind.from_config(config, attn_implementation=language.ATTENTION)
        except ValueError as error:
            raise InvalidSetting([f"model: {str(error).strip().splitlines()[0]}"]) from error
    return finished(language.linear_only(model).eval(), writing)


def finished(model: Any, writing: Writing) -> nn.Module:
    """The model, made or loaded, which now writes greedily and as said here alone.

    What else its folder says of writing is known to a model from the checkpoint only, not to one
    from the configuration. So it is with the head of a T5 that shares no weight: transformers ties
    it unless the checkpoint has another one.
    """
    from transformers import GenerationConfig

    kind: Any = GenerationConfig
    model.generation_config = kind(
        max_new_tokens=writing.longest,
        num_beams=1,
        do_sample=False,
        use_cache=True,
        pad_token_id=writing.pad,
        eos_token_id=writing.end,
        decoder_start_token_id=writing.start,
        forced_bos_token_id=writing.first,
        # What no translation holds; Marian's embedding of it is 0, which may be the best of all.
        suppress_tokens=None if writing.pad == writing.end else [writing.pad],
    )
    apart = model.config.model_type in ("mt5", "umt5")
    if apart or not getattr(model.config, "scale_decoder_outputs", True):  # T5: tied ones scale
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    done: nn.Module = model
    return done


def run(model: Any, inputs: Inputs) -> Tensor:
    """Logits (b, t, vocabulary) where the inputs hold a translation, else :func:`written`."""
    given = cast(Mapping[str, Tensor], inputs)
    if TEACHER not in given:
        return written(model, given)
    logits: Tensor = model(**given, use_cache=False).logits
    return logits


@torch.no_grad()
def written(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The likeliest token after the other: ids, (b, longest), padded behind the end."""
    config = model.generation_config
    tokens: Tensor = model.generate(**inputs)[:, 1:]
    missing = config.max_new_tokens - tokens.shape[1]
    return nn.functional.pad(tokens, (0, missing), value=config.pad_token_id)


def body(model: nn.Module) -> tuple[str, ...]:
    """Patterns of every Linear, less a head that shares its weight with an embedding."""
    return ("*encoder.*", "*decoder.*") if language.tied(model) else ("*",)

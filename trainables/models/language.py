"""Hugging Face models as the compression takes them: Linear layers, weights from safetensors."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compression.registry import InvalidSetting
from trainables.data.text_tables import did_you_mean

ATTENTION = "sdpa"
"""Scaled dot product attention of torch: on one machine the same logits for the same batch."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


@cache
def model_folder(name: str) -> Path:
    """The folder of a model: a local one, or the snapshot of a model of the Hugging Face hub.

    Raises:
        InvalidSetting: neither; or the folder lacks something, and what.
    """
    _require_transformers()
    path = Path(name).expanduser()
    if path.exists():
        if missing := _missing_files(path):
            raise InvalidSetting(
                [f"model: '{name}' is no model: it has no {', no '.join(missing)}"]
            )
        return path
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise InvalidSetting([f"model: there is no folder '{name}'{did_you_mean(path)}"])
    return _snapshot(name, path)


def _require_transformers() -> None:
    try:
        import transformers
    except ImportError:
        raise InvalidSetting(
            ["tasks on texts need transformers: pip install 'paretune[text]'"]
        ) from None
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _missing_files(path: Path) -> list[str]:
    """What a folder needs to be read as a model, and lacks."""
    if not path.is_dir():
        return ["folder: it is a file"]
    missing = [] if (path / "config.json").exists() else ["config.json"]
    if not any(path.glob("*.safetensors")):
        other = any(path.glob("*.bin"))
        hint = " (pickled weights are not read: save the model again by save_pretrained)"
        missing.append(f"model.safetensors{hint if other else ''}")
    if not (path / "tokenizer.json").exists():
        missing.append("tokenizer.json (of a fast tokenizer)")
    return missing


def _snapshot(name: str, path: Path) -> Path:
    """The hub's model in Hugging Face's own cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):  # then it is not there yet
        found = Path(snapshot_download(name, local_files_only=True))
        if not _missing_files(found):
            return found
    advice = (
        f"; fetch it elsewhere (hf download {name} --local-dir FOLDER) and give FOLDER as the "
        "model, or put the Hugging Face cache of that machine under $HF_HOME here"
    )
    close = did_you_mean(path) if path.parent.is_dir() else ""
    if not _online():
        raise InvalidSetting(
            [f"model: there is no folder '{name}'{close}, and no network to get it from{advice}"]
        )
    try:
        found = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidSetting(
            [f"model: there is no folder '{name}'{close}, and the hub says: {reason}{advice}"]
        ) from error
    if missing := _missing_files(found):
        raise InvalidSetting([f"model: '{name}' on the hub has no {', no '.join(missing)}"])
    return found


def _online() -> bool:
    """Whether the hub's host can be reached; the library itself would try for most of a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=5).close()
    except OSError:
        return False
    return True


def tokenizer(folder: Path) -> Any:
    """The model's fast tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def fast_tokenizer(folder: Path) -> Any:
    """The same, or why there is none: of sentencepiece files alone transformers makes a slow one.

    Raises:
        InvalidSetting: the folder holds no tokenizer.json that can be read.
    """
    try:
        found = tokenizer(folder)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidSetting(
            [f"model: no tokenizer can be made of '{folder}': {reason}"]
        ) from error
    if not found.is_fast:
        raise InvalidSetting(
            [
                f"model: '{folder}' has a slow tokenizer, without tokenizer.json, as Marian's "
                "checkpoints have; convert it (transformers.convert_slow_tokenizer), save the "
                "result there, and set tokenizer_class to PreTrainedTokenizerFast"
            ]
        )
    return found


def raw_tokenizer(folder: Path) -> Any:
    """The same as ``tokenizers`` has it: ids and offsets, no special tokens unless asked."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def padding(tokenizer: Any) -> int:
    """What fills the shorter texts of a batch; nothing attends to it."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in found if token is not None)


def tokenizer_key(folder: Path) -> str:
    """Hash of all that decides how texts become token ids."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    found = hashlib.sha256()
    for name in names:
        if (folder / name).exists():
            found.update(name.encode() + (folder / name).read_bytes())
    return found.hexdigest()


def config_of(folder: Path, **changes: Any) -> Any:
    """The model's configuration.

    Raises:
        InvalidSetting: a kind of model that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, **changes)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidSetting(
            [f"model: the config.json in '{folder}' is of no use: {reason}"]
        ) from error


def small_config(vocabulary: int, width: int, depth: int, length: int) -> Any:
    """A Llama with grouped-query attention (4 heads, 2 of keys and values), tied."""
    _require_transformers()
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )


def classifier(config: Any, device: str = "cpu") -> nn.Module:
    """A sequence classifier of that configuration: random weights, the same at every call.

    On the device ``meta`` it has none, and costs next to nothing.
    """
    from transformers import AutoModelForSequenceClassification

    return _fresh(AutoModelForSequenceClassification, config, device)


def decoder(config: Any, device: str = "cpu") -> nn.Module:
    """A causal language model of that configuration: as :func:`classifier`."""
    from transformers import AutoModelForCausalLM

    config.use_cache = False
    return _fresh(AutoModelForCausalLM, config, device)


def _fresh(kind: Any, config: Any, device: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        try:
            model: nn.Module = kind.from_config(config, attn_implementation=ATTENTION)
        except ValueError as error:
            raise InvalidSetting([f"model: {str(error).strip().splitlines()[0]}"]) from error
    return linear_only(model).eval()


def linear_only(model: nn.Module) -> nn.Module:
    """Replace transformers' ``Conv1D`` (GPT-2: a Linear with its weight transposed) by ``Linear``.

    x W + b with W (in, out) becomes the Linear of W^T, in place: the same function.
    """
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if type(module) is Conv1D:
            rows, columns = module.weight.shape
            linear = nn.Linear(rows, columns, device="meta", dtype=module.weight.dtype)
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous())
            linear.bias = module.bias
            model.set_submodule(name, linear)
    return model


def load(like: Any, folder: Path) -> tuple[nn.Module, list[str]]:
    """The checkpoint's model, of the class and configuration of ``like``; layers it left as new.

    Nothing else of ``like`` is used: it may be on the device ``meta``.

    Raises:
        InvalidSetting: weights of another shape, all of them; weights missing from the checkpoint
            other than those of a head and a pooler, which a fine-tuning may begin anew.
    """
    kind: Any = type(like)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, info = kind.from_pretrained(
            folder,
            config=like.config,
            attn_implementation=ATTENTION,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name all of them below
            use_safetensors=True,
            local_files_only=True,
            dtype="auto",
        )
    errors = [
        f"{name} is {tuple(found)} in the checkpoint, {tuple(needed)} in this {kind.__name__}"
        for name, found, needed in sorted(info["mismatched_keys"])
    ]
    body = f"{kind.base_model_prefix}."
    new = sorted(info["missing_keys"])
    errors += [f"{n} is missing" for n in new if n.startswith(body) and ".pooler." not in n]
    if errors:
        raise InvalidSetting(f"model: '{folder}' does not fit: {error}" for error in errors)
    return linear_only(model).eval(), new


def tied(model: nn.Module) -> dict[str, str]:
    """Linear layers by the other name of their weight: heads that share the embedding's."""
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    found = {}
    for name, parameter in parameters.items():
        owner = name.rpartition(".")[0]
        if id(parameter) in first and type(model.get_submodule(owner)) is nn.Linear:
            found[owner] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return found


def logits(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits of a batch, (b, ..., classes or vocabulary), float32 for any dtype of the weights."""
    found: torch.Tensor = model(**inputs).logits
    return found.float()

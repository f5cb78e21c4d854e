"""The mathematics: methods, inits, adapters, the saved model, its bytes and its work.

Names are imported on first use, since torch is slow to import.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ArtifactError": "artifact",
    "Rule": "model",
    "as_saved": "model",
    "compress_model": "model",
    "compression_of": "model",
    "decoded": "peft_format",
    "deserialize": "artifact",
    "finalize": "model",
    "keep_packed": "packed_layers",
    "load": "artifact",
    "macs": "size",
    "measure": "size",
    "merge": "merging",
    "read_header": "artifact",
    "save": "artifact",
    "serialize": "artifact",
    "target_layers": "model",
    "trainable": "model",
    "write_peft": "peft_format",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name``."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compression' has no attribute '{name}'")
    return getattr(import_module(f"compression.{_HOMES[name]}"), name)

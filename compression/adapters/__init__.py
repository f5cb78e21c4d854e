"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart
from compression.adapters.dora import Dora
from compression.adapters.lora import Lora
from compression.adapters.none import NoAdapter

__all__ = ["ADAPTERS", "Adapter", "AdapterStart", "Dora", "Lora", "NoAdapter"]

"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart, Pair, Shipped
from compression.adapters.dora import Dora
from compression.adapters.lora import Lora
from compression.adapters.none import NoAdapter
from compression.adapters.shared_bases import Vera
from compression.adapters.sora import Sora
from compression.adapters.vectors import Ia3

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterStart",
    "Dora",
    "Ia3",
    "Lora",
    "NoAdapter",
    "Pair",
    "Shipped",
    "Sora",
    "Vera",
]

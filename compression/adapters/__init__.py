"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.alora import AllocatingLora
from compression.adapters.base import ADAPTERS, Adapter, AdapterStart, Pair, Shipped
from compression.adapters.dora import Dora
from compression.adapters.dora_dynamic import DoraDynamic
from compression.adapters.elalora import ElaLora
from compression.adapters.incre_lora import IncreLora
from compression.adapters.lora import Lora
from compression.adapters.none import NoAdapter
from compression.adapters.shared_bases import Vera
from compression.adapters.sora import Sora
from compression.adapters.vectors import Ia3

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterStart",
    "AllocatingLora",
    "Dora",
    "DoraDynamic",
    "ElaLora",
    "Ia3",
    "IncreLora",
    "Lora",
    "NoAdapter",
    "Pair",
    "Shipped",
    "Sora",
    "Vera",
]

"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.adalora import Adalora
from compression.adapters.alora import AllocatingLora
from compression.adapters.base import ADAPTERS, Adapter, AdapterStart, Pair, Shipped
from compression.adapters.colora import CoLora
from compression.adapters.cuttlefish import Cuttlefish
from compression.adapters.dora import Dora
from compression.adapters.dora_dynamic import DoraDynamic
from compression.adapters.elalora import ElaLora
from compression.adapters.gora import Gora
from compression.adapters.incre_lora import IncreLora
from compression.adapters.ln_tuning import LnTuning
from compression.adapters.lora import Lora
from compression.adapters.lors import Lors
from compression.adapters.maestro import Maestro
from compression.adapters.none import NoAdapter
from compression.adapters.orthogonal import Boft, Hra, Oft, Psoft
from compression.adapters.prilora import PriLora
from compression.adapters.products import Delora, Gralora, Loha, Lokr, Miss
from compression.adapters.quantized_merge import QuantizedMerge
from compression.adapters.shared_bases import Lily, Randlora, Vera
from compression.adapters.sora import Sora
from compression.adapters.sparse import Shira
from compression.adapters.spectral import C3a, Fourierft, Waveft
from compression.adapters.vblora import Vblora
from compression.adapters.vectors import Ia3, Road

__all__ = [
    "ADAPTERS",
    "Adalora",
    "Adapter",
    "AdapterStart",
    "AllocatingLora",
    "Boft",
    "C3a",
    "CoLora",
    "Cuttlefish",
    "Delora",
    "Dora",
    "DoraDynamic",
    "ElaLora",
    "Fourierft",
    "Gora",
    "Gralora",
    "Hra",
    "Ia3",
    "IncreLora",
    "Lily",
    "LnTuning",
    "Loha",
    "Lokr",
    "Lora",
    "Lors",
    "Maestro",
    "Miss",
    "NoAdapter",
    "Oft",
    "Pair",
    "PriLora",
    "Psoft",
    "QuantizedMerge",
    "Randlora",
    "Road",
    "Shipped",
    "Shira",
    "Sora",
    "Vblora",
    "Vera",
    "Waveft",
]

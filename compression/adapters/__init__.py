"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.adalora import Adalora
from compression.adapters.alora import AllocatingLora
from compression.adapters.base import ADAPTERS, Adapter, AdapterStart, Pair, Shipped
from compression.adapters.block_lora import BlockLora
from compression.adapters.colora import CoLora
from compression.adapters.cuttlefish import Cuttlefish
from compression.adapters.dense_lora import DenseLora
from compression.adapters.dora import Dora
from compression.adapters.dora_dynamic import DoraDynamic
from compression.adapters.edora import EDora
from compression.adapters.elalora import ElaLora
from compression.adapters.gora import Gora
from compression.adapters.incre_lora import IncreLora
from compression.adapters.ln_tuning import LnTuning
from compression.adapters.lora import Lora
from compression.adapters.lora_xs import LoraXs
from compression.adapters.lors import Lors
from compression.adapters.lotr import Lotr
from compression.adapters.maestro import Maestro
from compression.adapters.mos import Mos
from compression.adapters.moslora import MosLora
from compression.adapters.msplora import MspLora
from compression.adapters.nola import Nola
from compression.adapters.none import NoAdapter
from compression.adapters.nora import Nora
from compression.adapters.of_base import Deft, Glora, GloraVector, Hira, Peanut
from compression.adapters.orthogonal import Boft, Hra, Oft, Psoft
from compression.adapters.prilora import PriLora
from compression.adapters.products import Delora, Gralora, Loha, Lokr, Miss
from compression.adapters.quantized_merge import QuantizedMerge
from compression.adapters.rslora import RsLora
from compression.adapters.salt import Salt
from compression.adapters.selective_lora import SelectiveLora
from compression.adapters.shared_bases import Lily, Randlora, Vera
from compression.adapters.shared_vectors import Pvera, Tinylora, Unilora
from compression.adapters.singlora import SingLora
from compression.adapters.sora import Sora
from compression.adapters.sparse import Shira, Supertuning
from compression.adapters.spectral import C3a, Fourierft, Waveft
from compression.adapters.spectral_adapter import SpectralAdapter
from compression.adapters.svfit import SvFit
from compression.adapters.vblora import Vblora
from compression.adapters.vectors import Beft, Ia3, Road

__all__ = [
    "ADAPTERS",
    "Adalora",
    "Adapter",
    "AdapterStart",
    "AllocatingLora",
    "Beft",
    "BlockLora",
    "Boft",
    "C3a",
    "CoLora",
    "Cuttlefish",
    "Deft",
    "Delora",
    "DenseLora",
    "Dora",
    "DoraDynamic",
    "EDora",
    "ElaLora",
    "Fourierft",
    "Glora",
    "GloraVector",
    "Gora",
    "Gralora",
    "Hira",
    "Hra",
    "Ia3",
    "IncreLora",
    "Lily",
    "LnTuning",
    "Loha",
    "Lokr",
    "Lora",
    "LoraXs",
    "Lors",
    "Lotr",
    "Maestro",
    "Miss",
    "Mos",
    "MosLora",
    "MspLora",
    "NoAdapter",
    "Nola",
    "Nora",
    "Oft",
    "Pair",
    "Peanut",
    "PriLora",
    "Psoft",
    "Pvera",
    "QuantizedMerge",
    "Randlora",
    "Road",
    "RsLora",
    "Salt",
    "SelectiveLora",
    "Shipped",
    "Shira",
    "SingLora",
    "Sora",
    "SpectralAdapter",
    "Supertuning",
    "SvFit",
    "Tinylora",
    "Unilora",
    "Vblora",
    "Vera",
    "Waveft",
]

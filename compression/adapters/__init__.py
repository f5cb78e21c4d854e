"""Adapters: what is trained on a compressed layer. One line for each."""

from compression.adapters.base import ADAPTERS, Adapter, AdapterStart, Pair, Shipped
from compression.adapters.bridge.dora import Dora
from compression.adapters.bridge.lora import Lora
from compression.adapters.bridge.of_base import Deft, Glora, GloraVector, Hira, Peanut
from compression.adapters.bridge.orthogonal import Boft, Hra, Oft, Psoft
from compression.adapters.bridge.products import Delora, Gralora, Loha, Lokr, Miss
from compression.adapters.bridge.rslora import RsLora
from compression.adapters.bridge.shared_bases import Lily, Randlora, Vera
from compression.adapters.bridge.shared_vectors import Pvera, Tinylora, Unilora
from compression.adapters.bridge.sparse import Shira, Supertuning
from compression.adapters.bridge.spectral import C3a, Fourierft, Waveft
from compression.adapters.bridge.vblora import Vblora
from compression.adapters.bridge.vectors import Beft, Ia3, Road
from compression.adapters.chains.block_lora import BlockLora
from compression.adapters.chains.dense_lora import DenseLora
from compression.adapters.chains.edora import EDora
from compression.adapters.chains.lora_xs import LoraXs
from compression.adapters.chains.lotr import Lotr
from compression.adapters.chains.mos import Mos
from compression.adapters.chains.moslora import MosLora
from compression.adapters.chains.msplora import MspLora
from compression.adapters.chains.nola import Nola
from compression.adapters.chains.nora import Nora
from compression.adapters.chains.salt import Salt
from compression.adapters.chains.selective_lora import SelectiveLora
from compression.adapters.chains.singlora import SingLora
from compression.adapters.chains.spectral_adapter import SpectralAdapter
from compression.adapters.chains.svfit import SvFit
from compression.adapters.ln_tuning import LnTuning
from compression.adapters.merged.lors import Lors
from compression.adapters.merged.quantized_merge import QuantizedMerge
from compression.adapters.none import NoAdapter
from compression.adapters.ranks.acip import Acip
from compression.adapters.ranks.adalora import Adalora
from compression.adapters.ranks.alora import AllocatingLora
from compression.adapters.ranks.colora import CoLora
from compression.adapters.ranks.cuttlefish import Cuttlefish
from compression.adapters.ranks.dora_dynamic import DoraDynamic
from compression.adapters.ranks.elalora import ElaLora
from compression.adapters.ranks.gora import Gora
from compression.adapters.ranks.incre_lora import IncreLora
from compression.adapters.ranks.maestro import Maestro
from compression.adapters.ranks.prilora import PriLora
from compression.adapters.ranks.sora import Sora

__all__ = [
    "ADAPTERS",
    "Acip",
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

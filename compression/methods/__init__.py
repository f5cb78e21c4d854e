"""Compression methods: how a layer's weight is stored. One line for each."""

from compression.methods.base import METHODS, Method, Plan, Slot
from compression.methods.block_sparse import BlockSparse
from compression.methods.cast import Cast
from compression.methods.chain import Chain, chain
from compression.methods.int1 import Int1
from compression.methods.none import NoMethod
from compression.methods.rtn import RoundToNearest
from compression.methods.svd import TruncatedSVD
from compression.methods.svd_cascade import SVDCascade

__all__ = [
    "METHODS",
    "BlockSparse",
    "Cast",
    "Chain",
    "Int1",
    "Method",
    "NoMethod",
    "Plan",
    "RoundToNearest",
    "SVDCascade",
    "Slot",
    "TruncatedSVD",
    "chain",
]

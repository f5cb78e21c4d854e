"""Compression methods: how a layer's weight is stored. One line for each."""

from compression.methods.admm import ADMM
from compression.methods.afm import AtomicFeatureMimicking
from compression.methods.awp import AWP
from compression.methods.awq import ActivationAware
from compression.methods.base import METHODS, Method, Plan, Slot
from compression.methods.block_sparse import BlockSparse
from compression.methods.block_svd import BlockSVD
from compression.methods.cast import Cast
from compression.methods.chain import Chain, chain
from compression.methods.channels import ChannelPruning
from compression.methods.chita import CHITA
from compression.methods.cp import CanonicalPolyadic
from compression.methods.cur import CUR
from compression.methods.dlp import DLP
from compression.methods.drop_blocks import DropBlocks
from compression.methods.dsformer import DenseSparse
from compression.methods.fp4 import Float4
from compression.methods.global_magnitude import GlobalMagnitude
from compression.methods.gptq import GPTQ
from compression.methods.hqq import HalfQuadratic
from compression.methods.int1 import Int1
from compression.methods.kronecker import Kronecker
from compression.methods.lamp import LAMP
from compression.methods.loraprune import LoRAPrune
from compression.methods.magnitude import Magnitude
from compression.methods.n_m import NOfM
from compression.methods.nf4 import NormalFloat4
from compression.methods.none import NoMethod
from compression.methods.rtn import RoundToNearest
from compression.methods.sparsegpt import SparseGPT
from compression.methods.svd import TruncatedSVD
from compression.methods.svd_cascade import SVDCascade
from compression.methods.ternary import Ternary
from compression.methods.tucker2 import Tucker2
from compression.methods.utilized_rank import UtilizedRank
from compression.methods.wanda import Wanda
from compression.methods.whitened_svd import WhitenedSVD
from compression.methods.yaqa import ModelPreserving

__all__ = [
    "ADMM",
    "AWP",
    "CHITA",
    "CUR",
    "DLP",
    "GPTQ",
    "LAMP",
    "METHODS",
    "ActivationAware",
    "AtomicFeatureMimicking",
    "BlockSVD",
    "BlockSparse",
    "CanonicalPolyadic",
    "Cast",
    "Chain",
    "ChannelPruning",
    "DenseSparse",
    "DropBlocks",
    "Float4",
    "GlobalMagnitude",
    "HalfQuadratic",
    "Int1",
    "Kronecker",
    "LoRAPrune",
    "Magnitude",
    "Method",
    "ModelPreserving",
    "NOfM",
    "NoMethod",
    "NormalFloat4",
    "Plan",
    "RoundToNearest",
    "SVDCascade",
    "Slot",
    "SparseGPT",
    "Ternary",
    "TruncatedSVD",
    "Tucker2",
    "UtilizedRank",
    "Wanda",
    "WhitenedSVD",
    "chain",
]

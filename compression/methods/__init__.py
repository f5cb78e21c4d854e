"""Compression methods: how a layer's weight is stored. One line for each."""

from compression.methods.base import METHODS, Method, Plan, Slot
from compression.methods.cast import Cast
from compression.methods.chain import Chain, chain
from compression.methods.low_rank.acip import AnyCompression
from compression.methods.low_rank.afm import AtomicFeatureMimicking
from compression.methods.low_rank.block_svd import BlockSVD
from compression.methods.low_rank.cp import CanonicalPolyadic
from compression.methods.low_rank.cur import CUR
from compression.methods.low_rank.drop_base import DropBase
from compression.methods.low_rank.dsformer import DenseSparse
from compression.methods.low_rank.kronecker import Kronecker
from compression.methods.low_rank.svd import TruncatedSVD
from compression.methods.low_rank.svd_cascade import SVDCascade
from compression.methods.low_rank.tucker2 import Tucker2
from compression.methods.low_rank.utilized_rank import UtilizedRank
from compression.methods.low_rank.welore import WeLore
from compression.methods.low_rank.whitened_svd import WhitenedSVD
from compression.methods.none import NoMethod
from compression.methods.quantize.awq import ActivationAware
from compression.methods.quantize.fp4 import Float4
from compression.methods.quantize.gptq import GPTQ
from compression.methods.quantize.hqq import HalfQuadratic
from compression.methods.quantize.int1 import Int1
from compression.methods.quantize.nf4 import NormalFloat4
from compression.methods.quantize.rtn import RoundToNearest
from compression.methods.quantize.sign import Sign
from compression.methods.quantize.ternary import Ternary
from compression.methods.quantize.yaqa import ModelPreserving
from compression.methods.sparsify.admm import ADMM
from compression.methods.sparsify.awp import AWP
from compression.methods.sparsify.block_sparse import BlockSparse
from compression.methods.sparsify.chita import CHITA
from compression.methods.sparsify.dlp import DLP
from compression.methods.sparsify.global_magnitude import GlobalMagnitude
from compression.methods.sparsify.lamp import LAMP
from compression.methods.sparsify.magnitude import Magnitude
from compression.methods.sparsify.n_m import NOfM
from compression.methods.sparsify.sparsegpt import SparseGPT
from compression.methods.sparsify.wanda import Wanda
from compression.methods.structured.channels import ChannelPruning
from compression.methods.structured.drop_blocks import DropBlocks
from compression.methods.structured.loraprune import LoRAPrune

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
    "AnyCompression",
    "AtomicFeatureMimicking",
    "BlockSVD",
    "BlockSparse",
    "CanonicalPolyadic",
    "Cast",
    "Chain",
    "ChannelPruning",
    "DenseSparse",
    "DropBase",
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
    "Sign",
    "Slot",
    "SparseGPT",
    "Ternary",
    "TruncatedSVD",
    "Tucker2",
    "UtilizedRank",
    "Wanda",
    "WeLore",
    "WhitenedSVD",
    "chain",
]

"""Allocators: which layer gets how many bytes. One line for each."""

from compression.allocation.alds import ALDS
from compression.allocation.base import ALLOCATORS, Allocator, Candidate, Measure
from compression.allocation.distortion import Distortion
from compression.allocation.measured import Measured
from compression.allocation.mlorq import MLoRQ
from compression.allocation.rd_prune import RDPrune
from compression.allocation.welore import GlobalThreshold

__all__ = [
    "ALDS",
    "ALLOCATORS",
    "Allocator",
    "Candidate",
    "Distortion",
    "GlobalThreshold",
    "MLoRQ",
    "Measure",
    "Measured",
    "RDPrune",
]

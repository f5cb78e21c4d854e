"""How layers compute with packed weights: the first that takes a layer has it. A line for each."""

from compression.kernels.base import KERNELS, Kernel, ReadyWeight, prepared
from compression.kernels.factored import Factored
from compression.kernels.lanes import Lanes
from compression.kernels.tiled import Tiled

__all__ = ["KERNELS", "Factored", "Kernel", "Lanes", "ReadyWeight", "Tiled", "prepared"]

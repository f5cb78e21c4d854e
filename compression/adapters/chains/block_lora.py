"""Low-rank adaptation in blocks of inputs with one down-projection for all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.chains.chained import (
    Chain,
    Chained,
    ChainedAdapter,
    first,
    further,
    random_matrix,
)
from compression.kinds import bare, kind_of
from compression.methods.base import Method, Shape, matrix_shape
from compression.registry import IntRange, Values, knob


@ADAPTERS.register("block_lora")
class BlockLora(ChainedAdapter):
    """Block-LoRA: ``y = W x + (alpha / r) sum_i B_i A x_i``, x_i the k blocks of the inputs.

    A (r, n / k) is one for all blocks, B_i (m, r) is of each, side by side in B (m, k r): the delta
    is ``[B_1 A ... B_k A]``, of rank up to k r. B starts at 0. The blocks of a convolution are of
    its channels; a layer of fewer has as many blocks as channels. Stored bytes:
    ``b r (n / k + k m)``. The form is that of the catalogue, which marks it as uncertain: the
    paper's summary would also fit a split of the rank, which is a lora of rank r / k.

    Source: Zhou et al., One Head Eight Arms, arXiv 2501.16720.
    """

    catalogue_id = "001-176"
    trained = frozenset({"A", "B"})
    blocks: int = knob(2, IntRange(1, 1024), Values((2, 4, 8)), help="k, blocks of the inputs")

    def refusals(
        self, layers: Mapping[str, nn.Module], rank: int, methods: Iterable[Method] = ()
    ) -> Iterator[str]:
        """See :meth:`Adapter.refusals`: also channels that blocks do not divide."""
        yield from super().refusals(layers, rank, methods)
        for name, module in layers.items():
            layer = bare(module)
            if kind_of(layer) not in self.kinds:
                continue
            if (channels := layer.weight.shape[1]) % self._blocks(tuple(layer.weight.shape)):
                yield f"{name}: {self.name} cannot split {channels} inputs in {self.blocks} blocks"

    def _blocks(self, shape: Shape) -> int:
        return min(self.blocks, shape[1])

    def slots(self, shape: Shape, rank: int) -> dict[str, Shape]:
        """See :meth:`ChainedAdapter.slots`."""
        (rows, columns), blocks = matrix_shape(shape), self._blocks(shape)
        return {"A": (rank, columns // blocks), "B": (rows, blocks * rank)}

    def begin(self, name: str, weight: Tensor, start: AdapterStart) -> dict[str, Tensor]:
        """See :meth:`ChainedAdapter.begin`."""
        sizes = self.slots(tuple(weight.shape), start.rank)
        return {"A": random_matrix(*sizes["A"]), "B": weight.new_zeros(sizes["B"])}

    def chains(self, layer: Chained) -> list[Chain]:
        """See :meth:`ChainedAdapter.chains`: A, once for each block, and B."""
        own = layer.own()
        return [Chain(layer.scale, (own["A"], own["B"]))]

    def output(self, layer: Chained, x: Tensor) -> Tensor:
        """See :meth:`ChainedAdapter.output`: A reads each block of the inputs by itself."""
        base: Tensor = layer.base_layer(x)
        [(scale, (a, b))] = self.chains(layer)
        at = x.ndim - (3 if isinstance(layer.base_layer, nn.Conv2d) else 1)
        blocks = self._blocks(tuple(layer.weight.shape))
        split = x.reshape(-1, x.shape[at] // blocks, *x.shape[at + 1 :])
        read = first(layer.base_layer, a, split)
        joined = read.reshape(*x.shape[:at], -1, *read.shape[2:])
        return (base + further(layer.base_layer, b, joined) * scale).to(base.dtype)

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (n + k m)``."""
        rows, columns = matrix_shape(shape)
        return rank * (columns + self._blocks(shape) * rows)

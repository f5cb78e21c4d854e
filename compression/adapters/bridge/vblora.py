"""Factors put together from one bank of vectors that all layers share: PEFT's VB-LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compression.adapters.base import ADAPTERS, AdapterStart, Shipped
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import PEFT_NAME, divisors
from compression.methods.base import Shape, Slot, matrix_shape
from compression.precision import DTYPES, narrow
from compression.registry import FloatRange, IntRange, Values, knob, naming

_LOGITS = ("vblora_logits_A", "vblora_logits_B")
_BANK = "vblora_vector_bank"
_NEVER = torch.finfo(torch.float32).min
"""A logit that no top-k takes; PEFT refuses to go on from an infinite one."""


@ADAPTERS.register("vblora")
class Vblora(Bridged):
    """VB-LoRA: ``y = W x + B A x``, A and B of sub-vectors that are mixes from one shared bank.

    Each sub-vector of length v is ``sum softmax(top-k logits)_i bank_i`` over its k largest of h
    trained logits; v divides all ins and outs. The bank (h, v) is trained, and shared by all
    layers. As the paper has it, the file holds k indices and k - 1 weights for each sub-vector in
    place of h logits (here the k - 1 lower logits less the largest: then the same numbers come
    back bit for bit), which is the form ``reduced``. The paper starts at a small random B A. A base
    that was compressed should start as it is: here the second half of the bank starts as minus the
    first, and each sub-vector of B as an even mix of k / 2 vectors with their negatives, which is
    0. So k is even. Stored bytes, at b a value and i an index: ``b h v`` in all and
    ``(k i + (k - 1) b) r (m + n) / v`` a layer.

    Source: Li et al., VB-LoRA, arXiv 2405.15179.
    """

    catalogue_id = "001-38"
    peft_type = "VBLORA"
    shared = True
    scaled = False
    # PEFT's comparison takes 5e-4 where its LoRA takes 1e-4.
    lr_factor = 5.0
    bank_size: int = knob(
        64,
        IntRange(2, 2**15),
        search=Values((32, 64, 128, 256)),
        help="vectors of the bank; even",
    )
    vector_length: int = knob(
        16, IntRange(1, 2**15), search=Values((8, 16, 32)), help="divides all ins and outs"
    )
    topk: int = knob(2, Values((2, 4)), search=Values((2, 4)), help="vectors in a mix")
    bound: float = knob(0.02, FloatRange(1e-6, 10.0), help="the bank starts uniform in +-bound")
    reduced: int = knob(
        0, IntRange(0, 1), help="1: of the logits the k largest are left", found=True
    )

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "r": rank,
            "num_vectors": self.bank_size,
            "vector_length": self.vector_length,
            "topk": self.topk,
            "init_vector_bank_bound": self.bound,
        }

    def objections(self, shape: Shape, rank: int) -> Iterator[str]:
        """See :meth:`Bridged.objections`."""
        if self.bank_size % 2 or self.bank_size < self.topk:
            yield f"bank_size {self.bank_size} must be even and at least topk = {self.topk}"
        if any(side % self.vector_length for side in shape):
            yield (
                f"vector_length {self.vector_length} must divide both sides; "
                f"it may be one of {divisors(*shape)}"
            )

    @torch.no_grad()
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`: half the bank mirrored, B from pairs of opposites."""
        super().attach(model, starts)
        mirrored: set[int] = set()
        for name in starts:
            wrapped: Any = model.get_submodule(name)
            bank, logits = wrapped.vblora_vector_bank[PEFT_NAME], wrapped.vblora_logits_B[PEFT_NAME]
            half = self.bank_size // 2
            if id(bank) not in mirrored:
                mirrored.add(id(bank))
                bank[half:] = -bank[:half]
            chosen = torch.rand(*logits.shape[:-1], half).topk(self.topk // 2).indices
            pairs = torch.cat((chosen, chosen + half), -1).to(logits.device)
            top = logits.amax(-1, keepdim=True).expand(pairs.shape)
            logits.scatter_(-1, pairs, top + logits.std())

    @torch.no_grad()
    def settle(self, model: nn.Module, layers: Mapping[str, tuple[Shape, int]]) -> None:
        """See :meth:`Adapter.settle`: the k largest logits, less the largest, and no others."""
        dtype = DTYPES[self.dtype]
        for key, live in self.parameters(model, layers).items():
            with naming(key):
                if key.endswith(_BANK):
                    live.copy_(narrow(live, dtype))
                else:
                    top, indices = _top(live, self.topk)
                    live.copy_(_logits(indices, narrow(top, dtype).float(), self.bank_size))

    def shipped(self, model: nn.Module, layer: str, own: Shipped) -> Shipped:
        """See :meth:`Adapter.shipped`."""
        return Shipped(self.replace(reduced=1), own.rank, own.alpha)

    def stored(self, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
        """See :meth:`Adapter.stored`."""
        found = {}
        for key, live in self.parameters(model, layers).items():
            if key.endswith(_BANK):
                found[key] = live
            else:
                top, indices = _top(live, self.topk)
                found[f"{key}.indices"] = indices.to(self._index)
                found[f"{key}.lower"] = top[..., 1:]
        return found

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: indices and lower logits in place of logits, if reduced."""
        slots = super().layout(layers)
        if not self.reduced:
            return slots
        found = {}
        for key, slot in slots.items():
            if key.endswith(_BANK):
                found[key] = slot
            else:
                rest = slot.shape[:-1]
                found[f"{key}.indices"] = Slot(self._index, (*rest, self.topk), "adapter")
                found[f"{key}.lower"] = Slot(slot.dtype, (*rest, self.topk - 1), "adapter")
        return found

    def restore(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[int, float]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """See :meth:`Adapter.restore`: logits from what is left of them, if reduced."""
        whole = dict(tensors)
        for key in [key for key in whole if key.endswith(".indices")]:
            name, indices = key.removesuffix(".indices"), whole.pop(key).long()
            lower = whole.pop(f"{name}.lower").float()
            top = torch.cat((torch.zeros_like(lower[..., :1]), lower), -1)
            whole[name] = _logits(indices, top, self.bank_size)
        super().restore(model, layers, whole)

    @property
    def _index(self) -> torch.dtype:
        return torch.uint8 if self.bank_size <= 2**8 else torch.int16

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))


def _top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits, less the largest: that changes no softmax. And where they are."""
    values, indices = logits.detach().topk(k, -1)
    return values - values[..., :1], indices


def _logits(indices: Tensor, top: Tensor, size: int) -> Tensor:
    """``size`` logits with these on top."""
    none = torch.full((*top.shape[:-1], size), _NEVER, device=top.device)
    return none.scatter(-1, indices, top)

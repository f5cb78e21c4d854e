"""Adapters that train a few values for many layers: PEFT's PVeRA, TinyLoRA, Uni-LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compression import philox
from compression.acting import Acting, Moment
from compression.adapters.base import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import BASIS, Bridged, Fill
from compression.adapters.bridge.peft_layers import HOLDER, PEFT_NAME, held
from compression.adapters.bridge.shared_bases import kaiming
from compression.methods.base import Shape, Slot, matrix_shape
from compression.precision import DTYPES
from compression.registry import FloatRange, IntRange, knob


@ADAPTERS.register("pvera")
class Pvera(Bridged):
    """PVeRA: VeRA with a distribution in the place of ``d * A x``: ``y = W x + b * B z``.

    z (r,) is normal with mean ``d_1 * A_1 x`` and log-variance ``d_2 * A_2 x`` while it is trained,
    and the mean when it is used. A_1, A_2 and B are frozen, random, shared by all layers; b (out,)
    starts at 0, d_1 and d_2 (r,) at ``d_initial``. Noise has its own generator, which checkpoints
    keep. As in PEFT there is no term for the distance from a prior. Stored bytes, at b a value:
    ``b (m + 2 r)`` a layer, and 8 in all for the checksum of A and B, which are rebuilt from
    ``seed``.

    Source: PVeRA, arXiv 2512.07703.
    """

    peft_type = "PVERA"
    shared = True
    scaled = False
    seeded = {"pvera_A": kaiming, "pvera_B": kaiming}
    # PEFT's comparison takes 3e-3 where its LoRA takes 1e-4; the best of docs/adapters.md are 4
    # times LoRA's: in between.
    lr_factor = 10.0
    d_initial: float = knob(0.1, FloatRange(1e-9, 1.0), help="where d starts")
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the shared A and B")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "d_initial": self.d_initial, "save_projection": False}

    def acting(self, model: nn.Module, layers: Iterable[str], seed: int) -> Acting:
        """See :meth:`Adapter.acting`: noise while it is trained."""
        return _Sampling([model.get_submodule(name) for name in layers], seed)

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r + m``: of the mean alone."""
        rows, columns = matrix_shape(shape)
        return rank * (rows + columns) + rank + rows


class _Sampling(Acting):
    """PEFT's layers sample in training mode, which our models are never in but for the step."""

    rewires = True

    def __init__(self, layers: list[nn.Module], seed: int) -> None:
        self.layers: list[Any] = list(layers)
        self.random = torch.Generator().manual_seed(seed)

    def before_step(self, moment: Moment) -> None:
        """See :meth:`Acting.before_step`."""
        self._sample(True)

    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`."""
        self._sample(False)

    def after_step(self, moment: Moment) -> None:
        """See :meth:`Acting.after_step`: gradients that overflowed were not told of."""
        self._sample(False)

    def _sample(self, on: bool) -> None:
        for layer in self.layers:
            layer.training = on  # of the wrapper alone: what is in it stays as it is
            layer.pvera_generator[PEFT_NAME] = self.random if on else None  # no copies of it

    def state(self) -> dict[str, Any]:
        """See :meth:`Acting.state`."""
        return {"random": self.random.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`Acting.restore`."""
        self.random.set_state(state["random"].cpu())


def spread_normal(stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Uniform with the variance 1 / r, for a stack (u, r, r)."""
    return philox.uniform(stream, tuple(tensor.shape), (3 / tensor.shape[-1]) ** 0.5).to(tensor)


@ADAPTERS.register("tinylora")
class Tinylora(Bridged):
    """TinyLoRA: ``y = W x + B (sum_i v_i P_i) A x``; v (u,) is all that is trained, from 0.

    B A is the best approximation of W of rank r, frozen, with the roots of the singular values on
    both sides; the P_i (r, r) are random, frozen, a layer's own, of variance 1 / r (PEFT: normal,
    here uniform). A share ``tying`` of the layers have their v in common with others. PEFT finds B
    and A by an SVD of the base, here the compressed one; an SVD does not come out bit for bit
    everywhere, so they are stored and counted, where the method has only v to store. Stored bytes,
    at b a value: ``b u`` for each v, ``b r (m + n)`` a layer, and 8 in all for the checksum of the
    P, which are rebuilt from ``seed``.

    Source: Learning to Reason in 13 Parameters, arXiv 2602.04118.
    """

    peft_type = "TINYLORA"
    of_base = True
    shared = True
    shares_basis = False
    scaled = False
    seeded = {"tinylora_P": spread_normal}
    kept = ("tinylora_A", "tinylora_B")
    asks_peft = False
    # PEFT's comparison takes 1e-3 where its LoRA takes 1e-4.
    lr_factor = 10.0
    size: int = knob(64, IntRange(1, 2**16), search=IntRange(1, 256, log=True), help="values of v")
    tying: float = knob(0.0, FloatRange(0.0, 1.0), help="share of layers without a v of their own")
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the P")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {
            "r": rank,
            "u": self.size,
            "weight_tying": self.tying,
            "save_projection": False,
            "target_modules": HOLDER,
        }

    def layout(self, layers: Mapping[str, tuple[Shape, int]]) -> dict[str, Slot]:
        """See :meth:`Adapter.layout`: in closed form, as PEFT would take an SVD each time."""
        dtype, slots = DTYPES[self.dtype], {}
        by_rank: dict[int, list[str]] = {}
        for name, (shape, rank) in layers.items():
            by_rank.setdefault(rank, []).append(name)
            rows, columns = matrix_shape(shape)
            own = min(rank, rows, columns)
            slots[f"{name}.tinylora_A"] = Slot(dtype, (own, columns), "adapter")
            slots[f"{name}.tinylora_B"] = Slot(dtype, (rows, own), "adapter")
        for names in by_rank.values():
            for i in range(self._vectors(len(names))):
                slots[f"{names[0]}.tinylora_v.{i}"] = Slot(dtype, (self.size,), "adapter")
        if layers:
            slots[f"{next(iter(layers))}.{BASIS}"] = Slot(torch.uint8, (8,), "adapter")
        return slots

    def _vectors(self, count: int) -> int:
        """How many v so many layers have, as PEFT deals them: equal runs, the rest to the last."""
        asked = max(1, round(count * (1 - self.tying)))
        run = max(1, count // asked)
        return min((count - 1) // run, asked - 1) + 1

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n) + r^2``; the sum of the P is once for a batch."""
        rank = min(rank, *matrix_shape(shape))
        return rank * sum(matrix_shape(shape)) + rank * rank


@ADAPTERS.register("unilora")
class Unilora(Bridged):
    """Uni-LoRA: ``y = W x + B A x``; all entries of all A and B are those of one trained vector.

    theta (d,) is shared by all layers. Each entry of A (r, n) and B (m, r) is the one of theta that
    its frozen random index names, over the root of how many name it, so that the map from theta to
    all of them is an isometry. The paper draws from the whole of theta and starts at a small random
    B A. A base that was compressed should start as it is: here A draws from the first half, B from
    the second, which is 0 at the start. Stored bytes, at b a value: ``b d`` in all, and 8 for the
    checksum of the indices, which are rebuilt from ``seed``.

    Source: Li et al., Uni-LoRA, arXiv 2506.00799.
    """

    peft_type = "UNILORA"
    shared = True
    shares_basis = False
    scaled = False
    derived = ("unilora_scales_A", "unilora_scales_B")
    # As for VeRA, a few values that each move many; the best of docs/adapters.md are as LoRA's: in
    # between.
    lr_factor = 3.0
    size: int = knob(
        256, IntRange(2, 2**24), search=IntRange(64, 4096, log=True), help="length of theta"
    )
    bound: float = knob(0.02, FloatRange(1e-6, 10.0), help="theta starts uniform in +-bound")
    seed: int = knob(0, IntRange(0, 2**31 - 1), help="of the indices")

    def arguments(self, rank: int, alpha: float) -> dict[str, Any]:
        """See :meth:`Bridged.arguments`."""
        return {"r": rank, "theta_d_length": self.size, "init_theta_d_bound": self.bound}

    def fills(self) -> Mapping[str, Fill]:
        """See :meth:`Bridged.fills`."""
        half = self.size // 2
        return {
            "unilora_indices_A": partial(_dealt, 0, half),
            "unilora_indices_B": partial(_dealt, half, self.size),
        }

    @torch.no_grad()
    def attach(self, model: nn.Module, starts: Mapping[str, AdapterStart]) -> None:
        """See :meth:`Adapter.attach`."""
        super().attach(model, starts)
        for name in starts:
            wrapped: Any = model.get_submodule(name)
            wrapped.unilora_theta_d[PEFT_NAME][self.size // 2 :] = 0.0

    @torch.no_grad()
    def _fill(self, modules: Mapping[str, nn.Module]) -> None:
        """Also the scales: how often an entry of theta is named, in all layers that share it."""
        super()._fill(modules)
        sharing: dict[int, list[Any]] = {}
        for wrapped in modules.values():
            theta = held(wrapped, "unilora_theta_d")
            sharing.setdefault(id(theta), []).append(wrapped)
        for group in sharing.values():
            named = {(w, f): held(w, f"unilora_indices_{f}") for w in group for f in "AB"}
            flat = torch.cat([indices.flatten() for indices in named.values()])
            counts = torch.bincount(flat, minlength=self.size).float()
            for (wrapped, factor), indices in named.items():
                scales = held(wrapped, f"unilora_scales_{factor}")
                scales.copy_(1 / counts[indices].sqrt())  # both steps are rounded correctly

    def macs(self, shape: Shape, rank: int) -> int:
        """``r (m + n)``."""
        return rank * sum(matrix_shape(shape))


def _dealt(first: int, end: int, stream: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Indices from ``first`` to below ``end``, each as often as any other, or once more."""
    order = philox.subset(stream, tensor.numel(), tensor.numel())
    return (first + order % (end - first)).view(tensor.shape).to(tensor)

"""What the layers of a model are seen to do with calibration examples."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compression.calibration import Calibration, evaluating
from compression.kinds import bare, kind_of
from compression.registry import InvalidSetting, naming
from compression.stats import GradientStats, InputStats, LayerStats, Need

POSITIONS = 64  # of an example's output positions in a convolution; drawn once, the same for all
SINGLES = 32  # examples whose gradients are kept one by one
_ROWS = 1 << 24  # values of unfolded inputs held at a time


def collect(
    model: nn.Module, names: Iterable[str], needs: Collection[Need], calibration: Calibration
) -> dict[str, LayerStats]:
    """Statistics of layers by name, as far as needed. The model is left as it was.

    Args:
        model: dense, or compressed so far.
        names: Linear and Conv2d layers; embeddings among them have none.
        needs: ``inputs`` costs a forward pass of the examples; ``gradients`` and ``outputs`` one
            with its backward; ``samples`` that of each of :data:`SINGLES` examples by itself.
        calibration: the examples.

    Raises:
        InvalidSetting: a layer's statistics are not finite, it is never called, or all of them
            together would not fit into memory.
    """
    found = {name: bare(model.get_submodule(name)) for name in names}
    layers = {name: layer for name, layer in found.items() if kind_of(layer) != "embedding"}
    _check_size(layers, needs)
    inputs, gradients = dict[str, InputStats](), dict[str, GradientStats]()
    if layers and "inputs" in needs:
        inputs = _inputs(model, layers, calibration)
    if layers and {"gradients", "outputs", "samples"} & set(needs):
        gradients = _gradients(model, layers, calibration, "outputs" in needs)
    if layers and "samples" in needs:
        single = _samples(model, layers, calibration)
        gradients = {n: replace(gradients[n], samples=single[n]) for n in gradients}
    stats = {}
    for name in layers if needs else ():
        with naming(name):
            stats[name] = LayerStats(inputs.get(name), gradients.get(name))
    return stats


def _check_size(layers: Mapping[str, Any], needs: Collection[Need]) -> None:
    """Refuse what half of this machine's memory cannot hold."""
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for need in sorted(needs):
        size = sum(_bytes(layer, need) for layer in layers.values())
        if size > room:
            text = (
                f"calibration: {need} of {len(layers)} layers take {size / 1e9:.0f} GB, room "
                f"is for {room / 1e9:.0f} GB: name fewer targets, or leave out what needs it"
            )
            raise InvalidSetting([text])


def _bytes(layer: Any, need: Need) -> int:
    rows, columns = len(layer.weight), layer.weight[0].numel()
    sizes: dict[Need, int] = {
        "examples": 0,
        "inputs": 4 * getattr(layer, "groups", 1) * columns**2,
        "gradients": 4 * rows * columns,
        "outputs": 4 * rows**2,
        "samples": 2 * SINGLES * rows * columns,
    }
    return sizes[need]


class _Moments:
    """Running sums of a layer's inputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.count = layer, 0
        self.squares: Tensor | float = 0.0
        self.sums: Tensor | float = 0.0
        self.sizes: Tensor | float = 0.0

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        """Take in the rows of a batch of inputs, some at a time."""
        size = max(1, len(x) * _ROWS // max(1, _unfolded(self.layer, x)))
        for start in range(0, len(x), size):
            some = slice(start, start + size)
            known = None if mask is None or mask.shape != x.shape[:-1] else mask[some]
            rows = input_rows(self.layer, x[some].float(), known)
            self.squares = self.squares + rows.transpose(1, 2) @ rows
            self.sums = self.sums + rows.sum(1)
            self.sizes = self.sizes + rows.abs().sum(1)
            self.count += rows.shape[1]

    def stats(self) -> InputStats:
        """The means.

        Raises:
            InvalidSetting: nothing was taken in.
        """
        if not self.count:
            raise InvalidSetting(["calibration: the layer is never called"])
        squares, sums, sizes = (
            torch.as_tensor(s) / self.count for s in (self.squares, self.sums, self.sizes)
        )
        return InputStats(squares, sums, sizes, self.count)


class _Seen(Exception):  # noqa: N818 - no error
    """No layer that is looked at will be called again in this forward pass."""


@torch.no_grad()
def _inputs(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration
) -> dict[str, InputStats]:
    moments = {name: _Moments(layer) for name, layer in layers.items()}
    calls, first = Counter[str](), Counter[str]()
    mask: Tensor | None = None

    def take(name: str, layer: nn.Module, args: Any) -> None:
        moments[name].add(args[0], mask)
        calls[name] += 1
        if calls == first:
            raise _Seen

    with ExitStack() as hooks, evaluating(model):
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(partial(take, name)).remove)
        for batch in calibration.batches():
            mask = calibration.mask(batch)
            with suppress(_Seen):
                calibration.forward(model, batch)
            # The first pass is whole, and tells how often a layer is called.
            first = first or calls.copy()
            calls.clear()
    found = {}
    for name, taken in moments.items():
        with naming(name):
            found[name] = taken.stats()
    return found


def _gradients(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration, outputs: bool
) -> dict[str, GradientStats]:
    sums = {name: torch.zeros_like(layer.weight).float() for name, layer in layers.items()}
    moments: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)
    examples = 0

    def add(name: str, gradient: Tensor) -> None:
        # The loss is a mean over the batch: times its examples, the gradient is one's own.
        rows = output_rows(layers[name], gradient.float() * examples)
        moments[name] = moments[name] + rows.T @ rows
        counts[name] += len(rows)

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def watch(layer: nn.Module, args: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(partial(add, name))  # type: ignore[no-untyped-call]

        return watch

    with ExitStack() as hooks, _differentiable(model, layers):
        for name, layer in layers.items() if outputs else ():
            hooks.callback(layer.register_forward_hook(hook(name)).remove)
        for rows in calibration.numbers().split(calibration.batch_size):  # type: ignore[no-untyped-call]
            examples = len(rows)
            for name, gradient in _backward(model, layers, calibration, calibration.batch(rows)):
                sums[name] += gradient * examples
    found = {name: (total / calibration.count).flatten(1) for name, total in sums.items()}
    if not outputs:
        return {name: GradientStats(mean) for name, mean in found.items()}
    return {
        name: GradientStats(mean, torch.as_tensor(moments[name] / max(counts[name], 1)))
        if counts[name]
        else GradientStats(mean, mean.new_zeros(len(mean), len(mean)))
        for name, mean in found.items()
    }


def _samples(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration
) -> dict[str, Tensor]:
    count = len(calibration.numbers(SINGLES))
    found = {
        name: layer.weight.new_zeros(count, *layer.weight.flatten(1).shape, dtype=torch.bfloat16)
        for name, layer in layers.items()
    }
    with _differentiable(model, layers):
        for number, batch in enumerate(calibration.batches(1, SINGLES)):
            for name, gradient in _backward(model, layers, calibration, batch):
                found[name][number] = gradient.flatten(1)
    return found


def _backward(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration, batch: Any
) -> list[tuple[str, Tensor]]:
    """The gradient of a batch's loss by each layer's weight; 0 where the loss ignores a layer.

    Raises:
        InvalidSetting: a layer is never called, or the whole loss depends on none.
    """
    called, weights = set[str](), [layer.weight for layer in layers.values()]
    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in layers.items():
            note = partial(_note, called, name)
            hooks.callback(layer.register_forward_hook(note).remove)
        loss = calibration.loss(model, batch)
    if idle := sorted(layers.keys() - called):
        raise InvalidSetting(f"{name}: calibration: the layer is never called" for name in idle)
    if not loss.requires_grad:
        raise InvalidSetting(["calibration: the loss has no gradient by any target layer"])
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        (name, torch.zeros_like(layer.weight) if gradient is None else gradient)
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True)
    ]


def _note(called: set[str], name: str, *_: object) -> None:
    called.add(name)


@contextmanager
def _differentiable(model: nn.Module, layers: dict[str, Any]) -> Iterator[None]:
    """The layers' weights, and these alone, with gradients; the model in evaluation mode."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with evaluating(model):
        try:
            model.requires_grad_(False)
            for layer in layers.values():
                layer.weight.requires_grad_(True)
            yield
        finally:
            for parameter, wanted in before.items():
                parameter.requires_grad_(wanted)


def input_rows(layer: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The inputs x of single outputs, (G, rows, n), in the order of ``W.flatten(1)``.

    Of a convolution at most :data:`POSITIONS` positions an example; of sequences x (b, t, n) those
    that the mask (b, t) keeps.
    """
    if not isinstance(layer, nn.Conv2d):
        return (x if mask is None else x[mask.bool()]).reshape(1, -1, x.shape[-1])
    windows = _windows(layer, x)
    rows, columns = _positions(windows.shape[2], windows.shape[3], x.device)
    taken = windows[:, :, rows, columns]  # (b, channels, positions, kh, kw)
    batch, channels, positions, kh, kw = taken.shape
    grouped = taken.view(batch, layer.groups, channels // layer.groups, positions, kh, kw)
    return grouped.permute(1, 0, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _windows(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel sees at each output, (b, channels, rows, columns, kh, kw): a view."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    batch, down, across = x.stride(0), x.stride(2), x.stride(3)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    size = (len(x), x.shape[1], height, width, kh, kw)
    steps = (batch, x.stride(1), down * sh, across * sw, down * dh, across * dw)
    return x.as_strided(size, steps)


def _positions(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(0))
    chosen = order[:POSITIONS].sort().values.to(device)
    return chosen // width, chosen % width


def output_rows(layer: nn.Module, y: Tensor) -> Tensor:
    """Outputs, or their gradients, one row for each position: (rows, m)."""
    if isinstance(layer, nn.Conv2d):
        y = y.movedim(1, -1)
    return y.reshape(-1, y.shape[-1])


def _unfolded(layer: nn.Module, x: Tensor) -> int:
    """Values that the rows of a batch come to."""
    if not isinstance(layer, nn.Conv2d):
        return x.numel()
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    return len(x) * x.shape[1] * kernel * POSITIONS

"""What the layers of a model are seen to do with calibration examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
        needs: ``inputs`` costs a forward pass of the examples, ``gradients`` one with its backward,
            ``samples`` that of each of the first :data:`SINGLES` examples by itself.
        calibration: the examples.

    Raises:
        InvalidSetting: a layer's statistics are not finite, or it is never called.
    """
    found = {name: bare(model.get_submodule(name)) for name in names}
    layers = {name: layer for name, layer in found.items() if kind_of(layer) != "embedding"}
    if not layers or not needs:
        return {}
    inputs = _inputs(model, layers, calibration) if "inputs" in needs else {}
    gradients: dict[str, GradientStats] = {}
    if {"gradients", "samples"} & set(needs):
        gradients = _gradients(model, layers, calibration)
    if "samples" in needs:
        single = _samples(model, layers, calibration)
        gradients = {n: replace(gradients[n], samples=single[n]) for n in gradients}
    stats = {}
    for name in layers:
        with naming(name):
            stats[name] = LayerStats(inputs.get(name), gradients.get(name))
    return stats


class _Moments:
    """Running sums of a layer's inputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.count = layer, 0
        self.squares: Tensor | float = 0.0
        self.sums: Tensor | float = 0.0
        self.sizes: Tensor | float = 0.0

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        """Take in the rows of a batch of inputs, some at a time."""
        for part in x.split(max(1, len(x) * _ROWS // max(1, _unfolded(self.layer, x)))):  # type: ignore[no-untyped-call]
            rows = input_rows(self.layer, part.float(), mask)
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


@torch.no_grad()
def _inputs(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration
) -> dict[str, InputStats]:
    moments = {name: _Moments(layer) for name, layer in layers.items()}
    mask: Tensor | None = None

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda layer, args: moments[name].add(args[0], mask)

    with ExitStack() as hooks, evaluating(model):
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(hook(name)).remove)
        for batch in calibration.batches():
            mask = calibration.mask(batch)
            calibration.forward(model, batch)
    found = {}
    for name, taken in moments.items():
        with naming(name):
            found[name] = taken.stats()
    return found


def _gradients(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration
) -> dict[str, GradientStats]:
    sums = {
        name: torch.zeros_like(layer.weight, dtype=torch.float32) for name, layer in layers.items()
    }
    moments = {name: torch.zeros(len(w), len(w)) for name, w in sums.items()}
    counts = dict.fromkeys(layers, 0)

    def seen(name: str, examples: int) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            # The loss is a mean over the batch: times its examples, the gradient is one's own.
            rows = output_rows(layers[name], gradient.float() * examples)
            moments[name] += rows.T @ rows
            counts[name] += len(rows)

        return add

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def watch(layer: nn.Module, args: Any, output: Tensor) -> None:
            output.register_hook(seen(name, examples))  # type: ignore[no-untyped-call]

        return watch

    with ExitStack() as hooks, _differentiable(model, layers):
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(hook(name)).remove)
        for rows in torch.arange(calibration.count).split(calibration.batch_size):  # type: ignore[no-untyped-call]
            examples = len(rows)
            for name, gradient in _backward(model, layers, calibration, calibration.batch(rows)):
                sums[name] += gradient * examples
    return {
        name: GradientStats(
            (sums[name] / calibration.count).flatten(1), moments[name] / max(counts[name], 1)
        )
        for name in layers
    }


def _samples(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    with _differentiable(model, layers):
        for batch in calibration.batches(1, SINGLES):
            for name, gradient in _backward(model, layers, calibration, batch):
                found[name].append(gradient.flatten(1).bfloat16())
    return {name: torch.stack(gradients) for name, gradients in found.items()}


def _backward(
    model: nn.Module, layers: dict[str, Any], calibration: Calibration, batch: Any
) -> list[tuple[str, Tensor]]:
    weights = [layer.weight for layer in layers.values()]
    with torch.enable_grad():
        loss = calibration.loss(model, batch)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        (name, torch.zeros_like(layer.weight) if gradient is None else gradient)
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True)
    ]


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

    Of a convolution at most :data:`POSITIONS` positions an example; of sequences those that the
    mask (b, t) keeps.
    """
    if not isinstance(layer, nn.Conv2d):
        kept = mask is not None and x.shape[:-1] == mask.shape
        return (x[mask.bool()] if kept and mask is not None else x).reshape(1, -1, x.shape[-1])
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

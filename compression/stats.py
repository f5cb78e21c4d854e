"""What calibration knows of a layer: moments of its inputs, and gradients of the loss.

A linear layer has G = 1 group of inputs; a convolution those of its ``groups``, each with
n = in_channels / G * kh * kw inputs to an output, in the order of ``W.flatten(1)``. m is the number
of outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from compression.registry import InvalidSetting

Need = Literal["examples", "inputs", "gradients", "outputs", "samples"]
"""What calibration has to give: the examples alone; moments of inputs; mean gradients; moments of
the outputs' gradients; gradients of single examples."""


@dataclass(frozen=True)
class InputStats:
    """Moments of a layer's inputs x, one x for each output position of a calibration example.

    ``second_moment`` (G, n, n) is the mean of x x^T, ``mean`` (G, n) that of x, ``magnitude``
    (G, n) that of |x|, ``count`` the number of x in a group.
    """

    second_moment: Tensor
    mean: Tensor
    magnitude: Tensor
    count: int

    def pooled(self) -> Tensor:
        """The second moment (n, n) of the inputs to any group: for G = 1 the one there is."""
        return self.second_moment.mean(0)

    def root_mean_square(self) -> Tensor:
        """``sqrt(mean x^2)``, (G, n)."""
        return self.second_moment.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()


@dataclass(frozen=True)
class GradientStats:
    """Gradients of the training loss, dense model, mean over calibration examples.

    ``mean`` (m, n) is dL/dW as a matrix. Where they were asked for, ``output_moment`` (m, m) is the
    mean of g g^T over output positions, g = dL/dy of one example, and ``samples`` (k, m, n) are
    dL/dW of single examples, in bfloat16.
    """

    mean: Tensor
    output_moment: Tensor | None = None
    samples: Tensor | None = None


@dataclass(frozen=True)
class LayerStats:
    """What calibration knows of one layer, as far as it was asked for.

    Raises:
        InvalidSetting: something in it is NaN or infinite.
    """

    inputs: InputStats | None = None
    gradients: GradientStats | None = None

    def __post_init__(self) -> None:
        """Refuse what is not finite."""
        wrong = [name for name, value in self._tensors() if not torch.isfinite(value).all()]
        if wrong:
            raise InvalidSetting(f"calibration: {name} holds NaN or infinity" for name in wrong)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for part in (self.inputs, self.gradients):
            for f in fields(part) if part else ():
                if isinstance(value := getattr(part, f.name), Tensor):
                    yield f.name, value

    def has(self, need: Need) -> bool:
        """Whether this was computed."""
        if need == "examples":
            return True
        if need == "samples":
            return self.gradients is not None and self.gradients.samples is not None
        if need == "outputs":
            return self.gradients is not None and self.gradients.output_moment is not None
        return getattr(self, need) is not None


def inputs_of(stats: LayerStats | None) -> InputStats:
    """The moments of a layer's inputs, for a plugin that declares to need them.

    Raises:
        InvalidSetting: they were not computed.
    """
    if stats is None or stats.inputs is None:
        raise InvalidSetting(["needs calibration, and has no moments of the layer's inputs"])
    return stats.inputs


def gradients_of(stats: LayerStats | None) -> GradientStats:
    """The gradients of a layer, for a plugin that declares to need them.

    Raises:
        InvalidSetting: they were not computed.
    """
    if stats is None or stats.gradients is None:
        raise InvalidSetting(["needs calibration, and has no gradients of the layer"])
    return stats.gradients


def output_moment_of(stats: LayerStats | None) -> Tensor:
    """The moment (m, m) of a layer's output gradients, for a plugin that declares to need it.

    Raises:
        InvalidSetting: it was not computed.
    """
    found = gradients_of(stats).output_moment
    if found is None:
        raise InvalidSetting(["needs calibration, and has no moments of the outputs' gradients"])
    return found

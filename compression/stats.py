"""What calibration knows of a layer's inputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerStats:
    """Second moment of a layer's inputs over a calibration set.

    ``second_moment`` is the mean of x x^T, (in, in) where in = in_channels/groups * kh * kw for a
    convolution, and ``count`` the number of rows x that it is the mean of.
    """

    second_moment: Tensor
    count: int

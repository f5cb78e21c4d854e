"""Gradients no longer than a bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from compression.acting import Acting, Moment
from compression.registry import FloatRange, knob
from trainables.hooks.base import HOOKS, Hook, Scene


@HOOKS.register("grad_clip")
class GradClip(Hook):
    """Gradients times ``min(1, c / ||g||)``, with the norm over all that is trained; c = ``norm``.

    Source: Pascanu et al., On the difficulty of training recurrent neural networks,
    arXiv 1211.5063.
    """

    norm: float = knob(
        1.0, FloatRange(1e-6, 1e6), FloatRange(0.1, 10.0, log=True), help="c, the greatest norm"
    )

    def start(self, scene: Scene) -> Acting:
        """See :class:`Hook`."""
        return _Clipping(scene.params, self.norm)


class _Clipping(Acting):
    def __init__(self, params: Sequence[nn.Parameter], norm: float) -> None:
        self.params, self.norm = list(params), norm

    def after_backward(self, moment: Moment) -> None:
        """See :meth:`Acting.after_backward`."""
        torch.nn.utils.clip_grad_norm_(self.params, self.norm)

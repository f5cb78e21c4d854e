"""What a hook is: something that acts at each step of a training, and combines with others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from compression.acting import Acting
from compression.adapters import Adapter
from compression.methods import Method
from compression.registry import Plugin, Registry
from compression.rules import LayerEntry


@dataclass(frozen=True)
class Scene:
    """A training that is about to begin.

    ``adapted`` has the layers that carry an adapter, in model order; ``params`` are all that the
    optimizer moves; ``seed`` is the trial's.
    """

    model: nn.Module
    adapted: Mapping[str, LayerEntry]
    params: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    seed: int


class Hook(Plugin, ABC):
    """Something that acts at each step of a training."""

    changes_base: ClassVar[bool] = False
    """Whether it changes what lies under the adapter: no recipe can take the base away then."""

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """Why it cannot act on these adapters over these methods, each of which may meet each.

        A sentence each.
        """
        yield from ()

    @abstractmethod
    def start(self, scene: Scene) -> Acting | None:
        """Begin; None where there is nothing to do."""


HOOKS: Registry[Hook] = Registry("hook", Hook)

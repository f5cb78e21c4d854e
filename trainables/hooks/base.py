"""What a hook is: something that acts at each step of a training, and combines with others."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import nn

from compression.acting import Acting, Moment
from compression.adapters import Adapter
from compression.methods import Method
from compression.registry import InvalidSetting, Plugin, Registry
from compression.rules import LayerEntry


@dataclass(frozen=True)
class Scene:
    """A training that is about to begin.

    ``adapted`` has the layers that carry an adapter, in model order; ``params`` are all that the
    optimizer moves; ``seed`` is the trial's; ``acting`` is what acts before it:
    adapters of themselves, then hooks.
    """

    model: nn.Module
    adapted: Mapping[str, LayerEntry]
    params: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    seed: int
    acting: Sequence[Acting] = ()

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of one hook's own, from the trial's seed and the hook's name."""
        digest = hashlib.sha256(f"{name}/{self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    def trained(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each adapted layer; of shared ones each layer that has them."""
        moved = {id(parameter): parameter for parameter in self.params}
        return {
            name: [
                moved[id(tensor)]
                for tensor in entry.adapter.parameters(self.model, [name]).values()
                if id(tensor) in moved
            ]
            for name, entry in self.adapted.items()
        }


class Hook(Plugin, ABC):
    """Something that acts at each step of a training."""

    changes_base: ClassVar[bool] = False
    """Whether it changes what lies under the adapter: no recipe can take the base away then."""

    def refusals(self, methods: Collection[Method], adapters: Collection[Adapter]) -> Iterator[str]:
        """Why it cannot act on these adapters over these methods, each of which may meet each.

        A sentence each.
        """
        yield from ()

    @property
    def settled_at(self) -> float:
        """The share of a training after which what is stored has its final form."""
        return 0.0

    @abstractmethod
    def start(self, scene: Scene) -> Acting | None:
        """Begin; None where there is nothing to do."""

    def check(self, scene: Scene) -> None:
        """See that it can act here.

        Raises:
            InvalidSetting: what :meth:`refusals` says of the scene's layers.
        """
        found = {
            text: None
            for entry in scene.adapted.values()
            for text in self.refusals([entry.method], [entry.adapter])
        }
        if found:
            raise InvalidSetting(f"{self.name}: {text}" for text in found)


def nothing(params: Iterable[nn.Parameter]) -> torch.Tensor | None:
    """A loss of 0 that hangs on one trained parameter; None if none is trained.

    Where a hook leaves few adapters to a step, these may have no live rank, and the task's loss
    hang on nothing that is trained: backpropagation has to begin somewhere.
    """
    trained = next((p for p in params if p.requires_grad), None)
    return None if trained is None else 0.0 * trained.sum()


def period(moment: Moment, every: float, ahead: int = 0) -> int:
    """The period of a step, or of one ``ahead``, where each is a share ``every`` of the training.

    Periods shorter than a step are one step each.
    """
    length = max(Fraction(1), Fraction(str(every)) * moment.steps)  # the decimal that was written
    return int((moment.step + ahead) / length)


def ends_period(moment: Moment, every: float) -> bool:
    """Whether a period ends with this step."""
    return period(moment, every, ahead=1) > period(moment, every)


def forget(optimizer: torch.optim.Optimizer, params: Iterable[nn.Parameter]) -> None:
    """Drop what an optimizer, or each part of a joined one, keeps of these parameters."""
    for state in states(optimizer):
        for parameter in params:
            state.pop(parameter, None)


def states(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The states by parameter of an optimizer, or of the parts of a joined one."""
    return [part.state for part in getattr(optimizer, "parts", [optimizer])]


HOOKS: Registry[Hook] = Registry("hook", Hook)

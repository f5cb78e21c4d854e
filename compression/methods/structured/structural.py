"""Methods that change a model's structure and leave the weights that stay as they are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from compression.calibration import Calibration
from compression.methods.base import Method, Plan, Scene, Shape, Slot
from compression.methods.none import NoMethod
from compression.registry import InvalidSetting
from compression.stats import LayerStats, Need


class Structural(Method):
    """A method whose work is its plan: structure edits, and new dense weights for what is left.

    Each layer that stays is stored as by :class:`NoMethod`, or by what follows in a chain.
    """

    structural = True
    row_step = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"examples"})

    @abstractmethod
    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""

    def examples(self, scene: Scene) -> Calibration:
        """The calibration examples.

        Raises:
            InvalidSetting: there are none.
        """
        if scene.calibration is None or not scene.calibration.count:
            raise InvalidSetting([f"{self.name}: needs calibration examples to see the structure"])
        return scene.calibration

    def encode(self, weight: Tensor, stats: LayerStats | None) -> tuple[Method, dict[str, Tensor]]:
        """See :meth:`Method.encode`."""
        return NoMethod().encode(weight, stats)

    def decode(self, tensors: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """See :meth:`Method.decode`."""
        return NoMethod().decode(tensors, shape)

    def layout(self, shape: Shape) -> dict[str, Slot]:
        """See :meth:`Method.layout`."""
        return NoMethod().layout(shape)

    def nominal_bits(self, shape: Shape) -> int:
        """32 for each value that stays."""
        return NoMethod().nominal_bits(shape)

"""Stored forms that contain smaller ones: lower ranks, fewer passes, fewer bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, final

from torch import Tensor

from compression.methods.base import Method, Shape, matrix_shape


class Nested(Method):
    """A method whose packed tensors contain those of smaller forms.

    A level is a resolved method, so what is taken out is an ordinary form with a layout of its own.
    Against the full form, its squared error never falls as bytes do.
    """

    crops_inner: ClassVar[bool] = False
    """Whether the floats of a level are the first rows and columns of each matrix of ``inner``."""

    @final
    def levels(self, shape: Shape) -> tuple[Method, ...]:
        """The smaller forms inside, each of fewer bytes; called on the resolved method."""
        found: list[Method] = []
        least = _nbytes(self, shape)
        for form in self.forms(shape):
            if (size := _nbytes(form, shape)) < least:
                found.append(form)
                least = size
        return tuple(found)

    @abstractmethod
    def forms(self, shape: Shape) -> Iterable[Method]:
        """What :meth:`levels` are chosen from: bytes rounded up can be the same for some."""

    @abstractmethod
    def at_level(
        self, tensors: Mapping[str, Tensor], shape: Shape, level: Method
    ) -> dict[str, Tensor]:
        """The packed tensors of one of :meth:`levels`, taken out of these.

        Raises:
            InvalidSetting: the format of its scales cannot hold them.
        """

    def level_errors(
        self, tensors: Mapping[str, Tensor], shape: Shape, levels: Sequence[Method]
    ) -> list[float]:
        """``||W^ - W_l||_F^2`` of some of the levels, W^ being the full form's weight."""
        full = self.decode(tensors, shape).double()
        weights = (level.decode(self.at_level(tensors, shape, level), shape) for level in levels)
        return [float((full - weight).square().sum()) for weight in weights]

    def level_costs(
        self, tensors: Mapping[str, Tensor], shape: Shape, levels: Sequence[Method]
    ) -> list[float]:
        """What going down to some of the levels costs, by which layers are chosen to go.

        By default :meth:`level_errors`.
        """
        return self.level_errors(tensors, shape, levels)


class Croppable(Method):
    """A method that stores a matrix so that its first rows and columns can be had by themselves."""

    @property
    def crops(self) -> bool:
        """Whether it does, with these settings."""
        return True

    @abstractmethod
    def crop(self, tensors: Mapping[str, Tensor], shape: Shape, to: Shape) -> dict[str, Tensor]:
        """Its tensors for these alone, which decode to the same values bit for bit."""


def _nbytes(method: Method, shape: Shape) -> int:
    return sum(slot.nbytes for slot in method.layout(shape).values())


def cropped(values: Tensor, shape: Shape, to: Shape) -> Tensor:
    """The first rows and columns ``to`` of a matrix, of values in row order."""
    rows, columns = matrix_shape(to)
    return values.view(matrix_shape(shape))[:rows, :columns].contiguous()

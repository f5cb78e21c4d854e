"""The contract of a structure edit: a change of the architecture, repeated when a file is read."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from compression.registry import Plugin, Registry


class Edit(Plugin, ABC):
    """One change of a model's structure, made before any layer is compressed.

    A file keeps only the edit's name and settings. Loading repeats it on the freshly built
    architecture, whose weights mean nothing yet: what an edit does follows from its settings and
    the architecture alone, never from the values of tensors.
    """

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Change ``model`` in place.

        Raises:
            InvalidSetting: the model has no such place or cannot be edited there; names the module.
        """


EDITS: Registry[Edit] = Registry("edit", Edit)

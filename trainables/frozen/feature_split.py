"""A split whose inputs are values from inside a model, read from the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainables.frozen.feature_files import FeatureCacheError, Ragged
from trainables.frozen.feature_reader import Reader
from trainables.frozen.feature_store import Store
from trainables.splits import Inputs, Split, StandIn

MASK = "attention_mask"


class FeatureSplit(StandIn):
    """A split's values at a cut; all but the inputs is that of the split it stands for.

    With ragged values the split's own inputs come along, and values are padded as their mask is.
    """

    def __init__(
        self, split: Split, store: Store, key: str, found: Reader, keeps_inputs: bool
    ) -> None:
        super().__init__(split)
        self.store, self.key, self.keeps_inputs = store, key, keeps_inputs
        self._reader: Reader | None = found

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the files itself."""
        return vars(self) | {"_reader": None, "labels": None, "groups": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See :meth:`__getstate__`."""
        base = state["base"]
        vars(self).update(state, labels=base.labels, groups=base.groups)

    @property
    def reader(self) -> Reader:
        """The open files.

        Raises:
            FeatureCacheError: in another process, if they have been evicted since.
        """
        if self._reader is None:
            self._reader = self.store.find(self.key)
        if self._reader is None:
            raise FeatureCacheError(
                f"features {self.key[:12]} are no longer in {self.store.folder}"
            )
        return self._reader

    @property
    def digest(self) -> str:
        """See :class:`Split`."""
        return self.key

    @property
    def tensors(self) -> Mapping[str, Tensor] | None:
        """The features as tensors by name, mapped read-only, if they lie in one piece."""
        return None if self.keeps_inputs else self.reader.mapped()

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`Split`."""
        found = self.reader.fetch(rows)
        given = self.base.inputs(rows) if self.keeps_inputs else {}
        if isinstance(given, Tensor):
            raise TypeError("inputs that are kept go by keyword")
        padded = {
            name: pad(value, given[MASK]) if isinstance(value, Ragged) else value
            for name, value in found.items()
        }
        return {**given, **padded}


def pad(value: Ragged, mask: Tensor) -> Tensor:
    """Steps of all rows to (b, t, ...), zero where the mask, (b, t), is."""
    steps, _ = value
    padded = steps.new_zeros(*mask.shape, *steps.shape[1:])
    padded[mask.bool()] = steps
    return padded

"""What this package raises."""

from __future__ import annotations

from collections.abc import Iterable


class InvalidCluster(ValueError):
    """The user's cluster file, account or hosts are not as they must be; a line for each error."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class ClusterError(RuntimeError):
    """Something failed on the way that is not the input's fault: one sentence."""


class NotSetUp(ClusterError):
    """A head is there that did not come up, or not yet."""

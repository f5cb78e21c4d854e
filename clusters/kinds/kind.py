"""What is particular to a kind of cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from clusters.check import Check
from clusters.file import ClusterFile


class Kind(ABC):
    """One ``provider.type`` of Ray's cluster launcher."""

    name: str

    @abstractmethod
    def checks(self, file: ClusterFile) -> Iterator[Check]:
        """Look at what must be there before a launch: credentials, keys, quota, hosts.

        Changes nothing, asks whom it must with a timeout, and goes on after a failed check.
        """

    @abstractmethod
    def idle_command(self, file: ClusterFile) -> str:
        """What the head runs, as its own user, to end the cluster from within."""

    def guard_command(self, file: ClusterFile) -> str | None:
        """What ends a machine on which no Ray runs; None where machines are the user's own."""
        return self.idle_command(file)

    def ended(self, file: ClusterFile) -> None:
        """End what the launcher's ``ray down`` leaves running.

        Raises:
            ClusterError: something may still run.
        """
        return None

    def environment(self) -> Mapping[str, str]:
        """Variables of ``ray start`` that this kind needs beside those of all."""
        return {}

    def files(self) -> Mapping[str, str]:
        """Texts by the names that they are to have in ``~/.paretune`` of the nodes."""
        return {}

    def head_address(self, file: ClusterFile) -> str | None:
        """The head's address, where the file says it; else the launcher is asked, for seconds."""
        return None

    def refusal(self, said: str) -> str | None:
        """Why the provider refuses the launcher, and the mend, where its words tell."""
        return None

    def prices(self, file: ClusterFile) -> Iterator[tuple[str, int]]:
        """The names that a price is given for, and how many of each there may be."""
        for node in file.node_types():
            yield node.name, 1 if node.is_head else node.most

    def gpus(self, file: ClusterFile) -> float | None:
        """Most GPUs that one of its machines has; None if only the machines know."""
        found = [node.gpus for node in file.node_types()]
        return None if None in found or not found else max(g for g in found if g is not None)

"""A study's files within so many bytes: what is least needed goes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from study.keeping.disk import counted
from study.store.files import CHECKPOINTS, FOLDER, owner
from study.store.storage import Storage, StorageError


class Quota:
    """At most so many bytes of artifacts, their logits and checkpoints, as far as that can be.

    What is needed is never deleted. If that alone takes more, it is said once and the study goes
    on: whether the disk has room is for the storage to say.
    """

    def __init__(self, storage: Storage, most: float, say: Callable[[str], None] = print) -> None:
        self.storage, self.most, self.say = storage, most, say
        self._told = False

    def fit(self, needed: Set[str], unended: Set[str], order: Sequence[Sequence[str]]) -> set[str]:
        """Delete files until the others fit; ids of the trials whose artifacts went.

        Args:
            needed: trials whose artifacts stay.
            unended: trials whose checkpoints stay.
            order: of the other trials those whose files are of some use, in groups that go
                together, the least useful first. What is in neither goes before them.
        """
        try:
            files = counted(self.storage)
        except StorageError:  # it is looked at again when the next trial ends
            return set()
        over = sum(files.values()) - self.most
        if over <= 0:
            return set()
        kept = {FOLDER: needed, CHECKPOINTS: unended}
        spare = {n: s for n, s in files.items() if owner(n) not in kept[n.partition("/")[0]]}
        of_use = {trial_id for group in order for trial_id in group}
        useless = [[n] for n in spare if n.startswith(CHECKPOINTS) or owner(n) not in of_use]
        gone: set[str] = set()
        for names in [*useless, *([n for n in spare if owner(n) in group] for group in order)]:
            for name in names if over > 0 else ():
                self.storage.discard(name)
                over -= spare.pop(name, 0)
                gone |= {owner(name)} if name.startswith(FOLDER) else set()
        self._tell(over)
        return gone

    def _tell(self, over: float) -> None:
        if over > 0 and not self._told:
            self._told = True
            self.say(
                f"QUOTA: the files that the study needs take {(self.most + over) / 1e6:.1f} MB, "
                f"more than quota: {self.most / 1e6:.1f} MB; none of them is deleted, it goes on"
            )

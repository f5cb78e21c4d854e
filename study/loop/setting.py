"""What a process works with that works on a study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from study.config import StudyConfig
from study.loop.placement import Node
from study.space.space import Space
from study.store.storage import Storage
from study.warm_start import WarmStart
from trainables.tasks import Prepared


@dataclass(frozen=True)
class Setting:
    """What a session works with."""

    config: StudyConfig
    data: Prepared
    name: str
    root: Storage
    tracking_uri: str
    cpus: int
    resume: bool = False
    address: str | None = None
    quiet: bool = False
    warm: WarmStart | None = None
    promised: tuple[Node, ...] = ()

    @property
    def storage(self) -> Storage:
        """The study's own folder."""
        return self.root.sub(self.name)

    @cached_property
    def space(self) -> Space:
        """What is searched."""
        return self.config.search_space()

"""What a layer-wise study's searcher is given: where to begin, and how to keep to the bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from study.config import StudyConfig
from study.layerwise.repair import Repair
from study.layerwise.sensitivity import sensitivity
from study.layerwise.settings import Flat, Settings
from study.layerwise.sizes import Sizes
from study.layerwise.space import LayerwiseSpace
from study.layerwise.starts import starts
from study.space import Space
from study.storage import Storage
from trainables.tasks import Prepared


@dataclass(frozen=True)
class Guide:
    """See :class:`study.search.StudySearch`; empty for uniform spaces."""

    starts: tuple[Flat, ...] = ()
    repair: Callable[[Flat], Flat] | None = None


def guide(
    config: StudyConfig,
    space: Space,
    data: Prepared,
    storage: Storage,
    say: Callable[[str], None],
) -> Guide:
    """Measure the sensitivity of the groups, if anything is to come of it.

    Raises:
        InvalidSetting: a budget of bytes below the least that the space reaches.
        StudyError: what was measured before can't be read.
    """
    given = config.space.layerwise
    if given is None or not isinstance(space, LayerwiseSpace):
        return Guide()
    if not given.starts and given.max_bytes is None:
        return Guide()
    sizes = Sizes(space, config.task, data)
    if given.max_bytes is not None:  # refused before the work, if at all
        Repair(Settings(space, sizes, {g.name: {} for g in space.groups}), given.max_bytes)
    parts = (config.calibration.samples, config.seed, storage, say)
    found = sensitivity(space, config.task, data, *parts)
    settings = Settings(space, sizes, found.growths)
    repair = None
    if given.max_bytes is not None:
        repair = Repair(settings, given.max_bytes, given.fill)
    return Guide(tuple(starts(settings, given.starts, given.max_bytes)), repair)

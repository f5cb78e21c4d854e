"""What a layer-wise study's searcher is given: where to begin, and how to keep to the bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from compression.allocation import Measure
from study.allocation.allocations import allocations
from study.allocation.costs import Evidence
from study.config import StudyConfig
from study.layerwise.repair import Repair
from study.layerwise.sensitivity import sensitivity
from study.layerwise.settings import Flat, Growths, Settings
from study.layerwise.sizes import Sizes
from study.layerwise.space import LayerwiseSpace
from study.layerwise.starts import starts
from study.space.space import Space
from study.store.storage import Storage
from trainables.calibration import calibrated
from trainables.tasks import Prepared


@dataclass(frozen=True)
class Guide:
    """See :class:`study.loop.search.StudySearch`; empty for uniform spaces."""

    starts: tuple[Flat, ...] = ()
    repair: Repair | None = None


def guide(
    config: StudyConfig,
    space: Space,
    data: Prepared,
    storage: Storage,
    say: Callable[[str], None],
) -> Guide:
    """Measure the sensitivity of the groups, if anything is to come of it; allocate, if asked.

    Raises:
        InvalidSetting: a budget of bytes below the least that the space reaches.
        StudyError: what was measured before can't be read.
    """
    given, allocate = config.space.layerwise, config.space.allocate
    if given is None or not isinstance(space, LayerwiseSpace):
        return Guide()
    sizes = Sizes(space, config.task, data)
    budget = given.max_bytes if allocate is None else allocate.budget(sizes.dense_bytes)
    if not given.starts and budget is None:
        return Guide()
    unmeasured = Settings(space, sizes, {g.name: {} for g in space.groups})
    if budget is not None:  # refused before the work, if at all
        Repair(unmeasured, budget)
    samples, seed = config.calibration.samples, config.seed
    known = data if data.calibration is not None else calibrated(data, samples, seed)

    @cache
    def growths(measure: Measure) -> Growths:
        parts = (samples, seed, storage, say, measure)
        return sensitivity(space, config.task, data, *parts).growths

    first = list[Flat]()
    if allocate is not None and budget is not None:
        evidence = Evidence(config.task, known, unmeasured, growths)
        made = allocations(allocate, evidence, budget, seed, storage, say)
        first = [allocation.params for allocation in made]
    settings = Settings(space, sizes, growths("distortion"))
    repair = None if budget is None else Repair(settings, budget, given.fill)
    found = [*first, *starts(settings, given.starts, budget)]
    return Guide(tuple(flat for i, flat in enumerate(found) if flat not in found[:i]), repair)

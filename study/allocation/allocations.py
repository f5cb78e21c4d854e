"""The allocations of a study: one for each allocator, kept in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from compression.allocation import Allocator
from compression.registry import InvalidSetting, Scalar
from study.allocation.config import AllocateConfig
from study.allocation.costs import Evidence
from study.allocation.refining import refined
from study.errors import StudyError
from study.layerwise.fitting import Fitted, Table, fitting
from study.layerwise.sensitivity import Loss
from study.layerwise.settings import Flat, Settings, State, effect
from study.space.options import choice
from study.store import sealed
from study.store.storage import Storage
from trainables.build import build
from trainables.record import Trial

FILE = "allocations.json"
_REMEDY = "delete it, and it is made anew"


@dataclass(frozen=True)
class Allocation:
    """What an allocator chose within ``max_bytes``, and what measuring changed of it.

    ``solved`` and ``kept`` are the losses on calibration examples of the solver's choice and of
    the best of ``tried``, ``changed`` the groups in which these differ; None where nothing was
    measured. The solver's sum may be above the least there is by ``gap``, before it was measured.
    """

    by: str
    max_bytes: int
    refine: int
    file_bytes: int
    params: Flat
    tried: int
    solved: float | None = None
    kept: float | None = None
    changed: int = 0
    gap: float = 0.0

    @property
    def note(self) -> str:
        """A line about it."""
        text = f"allocation by {self.by}: {self.file_bytes:,} of {self.max_bytes:,} bytes"
        if self.gap:
            text += f", within {self.gap:.2g} of the least sum"
        if self.solved is None or self.kept is None:
            return text
        if not self.changed:
            return f"{text}; of {self.tried} measured the solver's own is best ({self.kept:.4g})"
        return (
            f"{text}; measuring {self.tried} changed {self.changed} groups: "
            f"loss {self.solved:.4g} -> {self.kept:.4g}"
        )


def allocations(
    config: AllocateConfig,
    evidence: Evidence,
    max_bytes: int,
    seed: int,
    storage: Storage,
    say: Callable[[str], None],
) -> list[Allocation]:
    """Of each allocator in its order; as the study's folder has them, if it does.

    Raises:
        StudyError: the file there is damaged.
    """
    known = _read(storage)
    found = []
    for allocator in config.by:
        name = str(choice(allocator))
        key = (name, max_bytes, config.refine)
        same = (a for a in known if (a.by, a.max_bytes, a.refine) == key)
        if (allocation := next(same, None)) is None:
            allocation = allocated(allocator, evidence, max_bytes, config.refine, seed, name)
            known.append(allocation)
            sealed.write(storage, FILE, {"allocations": [asdict(a) for a in known]})
            say(allocation.note)
        found.append(allocation)
    return found


def _read(storage: Storage) -> list[Allocation]:
    known = sealed.read(storage, FILE, _REMEDY)
    if known is None:
        return []
    try:
        return [Allocation(**one) for one in known["allocations"]]
    except (KeyError, TypeError) as error:
        raise StudyError(f"{storage}/{FILE} is damaged ({error}); {_REMEDY}") from error


def allocated(
    allocator: Allocator, evidence: Evidence, max_bytes: int, refine: int, seed: int, name: str
) -> Allocation:
    """Solve, and measure what is near the solution; the least loss is kept.

    Raises:
        InvalidSetting: nothing fits, or the allocator cannot judge what it is given.
    """
    table, found = _solved(allocator, evidence, max_bytes)
    settings = evidence.settings
    if not refine:
        (first, gap), beside = min(found, key=lambda pair: _value(allocator, pair[0].state))
        flat, length = settings.flat(first, beside), settings.file_bytes
        return Allocation(name, max_bytes, refine, length(flat), flat, 0, gap=gap)
    score = partial(_loss, evidence, Loss(evidence.task, evidence.data), seed)
    # What is done to all other tensors has no cost in the table: to cast them would look free.
    (first, gap), beside = min(found, key=lambda pair: score(pair[1], pair[0].state))
    size, loss = partial(_file_bytes, settings, beside), partial(score, beside)
    near = refined(table, allocator.solve, size, max_bytes, first, loss, refine)
    (_, solved), (best, kept) = near[0], min(near, key=lambda pair: pair[1])
    changed = sum(first[group].values != setting.values for group, setting in best.items())
    measured = (len(near), solved, kept, changed, gap)
    return Allocation(name, max_bytes, refine, size(best), settings.flat(best, beside), *measured)


def _solved(
    allocator: Allocator, evidence: Evidence, max_bytes: int
) -> tuple[Table, list[tuple[Fitted, Mapping[str, Scalar]]]]:
    """What is chosen from, and the choice beside each thing done to the tensors of no group.

    Raises:
        InvalidSetting: nothing that the allocator chooses from fits.
    """
    settings, solve = evidence.settings, allocator.solve
    for table in evidence.tables(allocator):
        found: list[tuple[Fitted, Mapping[str, Scalar]]] = [
            (fitted, beside)
            for beside in evidence.space.besides()
            if (fitted := fitting(table, solve, partial(_file_bytes, settings, beside), max_bytes))
        ]
        if found:
            return table, found
    raise InvalidSetting([f"allocate.by: {allocator.name}: nothing fits into {max_bytes:,} bytes"])


def _file_bytes(settings: Settings, beside: Mapping[str, Scalar], state: State) -> int:
    return settings.file_bytes(settings.flat(state, beside))


def _value(allocator: Allocator, state: State) -> float:
    return allocator.value([setting.loss for setting in state.values()])


def _loss(
    evidence: Evidence, score: Loss, seed: int, beside: Mapping[str, Scalar], state: State
) -> float:
    """On the calibration examples, untrained; infinite where it is not finite."""
    space = evidence.space
    flat = evidence.settings.flat(state, beside)
    rest = space.to_trial(flat, seed).rest
    trial = Trial(space.task, effect(space.rules(flat)), rest=rest, seed=seed)
    loss = score(build(evidence.task, evidence.data, trial))
    return loss if math.isfinite(loss) else math.inf

"""An earlier study: found by its name, path or URI, and read from its files. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.fronts import non_dominated
from analysis.load import StudyDataError, parse_info
from compression.registry import InvalidSetting
from study import log
from study.constraints import Demands
from study.events import Member
from study.log import CorruptLog
from study.objectives import RATIO, Aim, aims, final
from study.state import StateError, StudyState, TrialState
from study.store.files import FILE
from study.store.names import is_part, is_within
from study.store.storage import Storage, StorageError
from trainables.record import Direction, Objective, Record

SHORTEST = 4  # digits of a trial's id that may stand for all of it


@dataclass(frozen=True)
class _Stated:
    """A task as far as ``study.json`` states it: its primary metric."""

    objective: Objective

    @property
    def metric(self) -> str:
        return self.objective.name


@dataclass(frozen=True)
class Finished:
    """A study's log and ``study.json``. It may still run: what is there is read."""

    name: str
    storage: Storage
    info: Mapping[str, Any]
    state: StudyState

    @property
    def objective(self) -> Objective:
        """The primary metric, by its plain name."""
        first = self.info["objectives"][0]
        name = first["name"].removeprefix("val_")
        return Objective(name, Direction(first["direction"]), first.get("unit", ""))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """All that the study trades: metric, ratio, and what else it asked for."""
        more = [str(one["name"]).removeprefix("log2_") for one in self.info["objectives"][2:]]
        return aims(_Stated(self.objective), (self.objective.name, RATIO, *more))

    @property
    def demands(self) -> Demands:
        """What the study asks of every point of its front."""
        texts = self.info.get("constraints", ())
        return Demands.of(_Stated(self.objective), texts, self.state)

    def undominated(self, trials: Sequence[TrialState]) -> list[TrialState]:
        """Those that none of the others beats in all objectives, smallest ratio first."""
        goals = self.aims
        found = [(x, t) for t in trials if t.record and (x := final(goals, t.record.outcome))]
        losses = np.array([losses for losses, _ in found]).reshape(-1, len(goals))
        mask = non_dominated(losses)
        kept = [pair for pair, keep in zip(found, mask, strict=True) if keep]
        return [trial for _, trial in sorted(kept, key=lambda pair: (-pair[0][1], pair[1].number))]

    def members(self) -> tuple[Member, ...]:
        """The front as it was decided; while nothing was, as it is now."""
        if self.state.frozen is not None:
            return self.state.frozen.members
        met = self.demands.met
        filed = [t for t in self.state.searched if t.record and t.record.outcome.sha256 and met(t)]
        return tuple(Member(t.trial_id, (t.trial_id,)) for t in self.undominated(filed))


def study_names(storage: Storage) -> list[str]:
    """Studies in a storage, by name."""
    return [name for name in storage.list() if log.exists(storage.sub(name))]


def find(study: str, storage: str) -> Storage:
    """The folder of a study: a path or URI, or a name in the storage.

    Raises:
        InvalidSetting: there is none; names those that are in the storage.
    """
    try:
        root = Storage.open(storage)
        within = [root.sub(study)] if is_within(study) else []
        for folder in (Storage.open(study), *within):
            if log.exists(folder):
                return folder
        known = ", ".join(study_names(root)[-5:]) or "none"
    except StorageError as error:
        raise InvalidSetting([str(error)]) from None
    raise InvalidSetting([f"no study '{study}', neither as a folder nor in {root}; there: {known}"])


def read(folder: Storage) -> Finished:
    """A study's files.

    Raises:
        InvalidSetting: ``study.json`` is missing, or of a later version.
        CorruptLog, StateError: the log is damaged.
    """
    if not folder.exists(FILE):
        raise InvalidSetting([f"{folder} has no {FILE}: its study ended before it began"])
    try:
        info = parse_info(folder.read_bytes(FILE), f"{folder}/{FILE}")
    except StudyDataError as error:
        raise InvalidSetting([str(error)]) from None
    if not info.get("objectives"):
        raise InvalidSetting([f"{folder}/{FILE}: objectives: the metric is not there"])
    name = folder.root.rpartition("/")[2]
    return Finished(name, folder, info, StudyState(log.read(folder)))


@dataclass(frozen=True)
class Found:
    """A trial with a record, and its study. ``remarks`` say what was chosen for the user."""

    study: Finished
    trial: TrialState
    record: Record
    remarks: tuple[str, ...] = ()


def find_trial(trial: str, study: str | None, storage: str) -> Found:
    """The trial of this id, of an id that begins so, or with a study of this number.

    One that was taken over from an earlier study is looked for there.

    Raises:
        InvalidSetting: there is none, several fit, or it has no record.
        CorruptLog, StateError: the log of the study that was named is damaged.
    """
    if study is None:
        root = Storage.open(storage)
        folders = [root.sub(name) for name in study_names(root)]
    else:
        folders = [find(study, storage)]
    found, damaged = list[Found](), list[str]()
    for folder in folders:
        try:
            found += _matches(trial, folder, study is not None)
        except (CorruptLog, StateError) as error:
            if study is not None:
                raise
            damaged.append(f"{folder} was not looked at: {error}")
    if len({hit.trial.trial_id for hit in found}) > 1:
        raise InvalidSetting([f"trial: '{trial}' may be {_listed(found)}; write more of it"])
    if not found:
        where = f"study {study}" if study else f"the studies of {storage}"
        hint = "" if study or not trial.isdigit() else "; a number needs its --study"
        raise InvalidSetting([f"trial: no '{trial}' with a record in {where}{hint}", *damaged])
    best = _newest(found)
    return _origin(replace(best, remarks=(*best.remarks, *damaged)), storage)


def _matches(trial: str, folder: Storage, numbers: bool) -> Iterator[Found]:
    events = log.read(folder)
    state = StudyState(events)
    hits = [t for t in state.ended if t.trial_id == trial]
    if not hits and numbers and trial.lstrip("-").isdigit() and int(trial) in state.trials:
        hits = [state.trials[int(trial)]]
    if not hits and len(trial) >= SHORTEST:
        hits = [t for t in state.ended if t.trial_id.startswith(trial)]
    for hit in hits:
        if hit.record:
            yield Found(read(folder), hit, hit.record)


def _newest(found: Sequence[Found]) -> Found:
    """Of one trial in several studies: that of the newest, rather where it was run."""
    best = max(found, key=lambda f: (f.trial.source is None, f.study.state.opened[0].at))
    others = sorted({f.study.name for f in found} - {best.study.name})
    remark = f"also in {', '.join(others)}: compared with its record in {best.study.name}"
    return replace(best, remarks=(remark,)) if others else best


def _origin(found: Found, storage: str) -> Found:
    """Where the trial was run, if it was taken over and that study is still there."""
    source = found.trial.source
    if source is None:
        return found
    try:
        if not is_part(source):  # a log that was sent does not say where to look
            raise InvalidSetting([f"study {source!r} is in another storage"])
        earlier = read(find(source, storage))
    except InvalidSetting:
        remark = f"run in {source}, which is not here: files may be of other epochs"
        return replace(found, remarks=(*found.remarks, remark))
    record, name = earlier.state.record_of(found.trial.trial_id), found.study.name
    for trial in earlier.state.trials.values():
        if record and trial.trial_id == found.trial.trial_id and trial.record:
            remark = f"{name} took it over from {earlier.name}: compared with its record there"
            return _origin(Found(earlier, trial, record, (*found.remarks, remark)), storage)
    return found


def _listed(found: Sequence[Found]) -> str:
    ids = {f.trial.trial_id: f for f in found}
    return ", ".join(f"{i} (number {f.trial.number} of {f.study.name})" for i, f in ids.items())

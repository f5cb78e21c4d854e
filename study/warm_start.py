"""What an earlier study knows, brought into a new one before anything is suggested.

A trial whose setting this space has, and that would be the very same here (weights, data, epochs,
seed, precision), is taken over with its record and file. Where only the setting fits, the best are
tried first. Everything else is dropped, and it is said why.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compression.registry import InvalidSetting, Values, naming
from study.events import Event, Inherited
from study.finished import Finished, find, read
from study.space.space import Space
from study.state import Phase, StudyState, TrialState
from study.store import sealed
from study.store.files import FILE, artifact, probe
from study.store.storage import Storage, StorageError
from trainables.record import Fingerprint, Record, Scalar

MOST_STARTS = 10
OPTION = "--warm-start"
_SHOWN = 5  # reasons in an error


@dataclass(frozen=True)
class WarmStart:
    """What comes of an earlier study, as ``study.json`` says it.

    ``location`` is that of the study ``source``. ``taken`` counts what is taken over, ``starts``
    are flat settings to be suggested first, ``dropped`` are trial ids by reason. Starts of
    ``other_splits`` were chosen where examples of this study's test may have been train or
    validation. ``trials`` are those still to be taken over, from ``folder``: in a study that goes
    on they are in its log.
    """

    source: str
    location: str
    taken: int = 0
    starts: tuple[Mapping[str, Scalar], ...] = ()
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trials: tuple[TrialState, ...] = ()
    folder: Storage | None = None
    other_splits: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "source": self.source,
            "location": self.location,
            "taken_over": self.taken,
            "start_points": [dict(params) for params in self.starts],
            "starts_of_other_splits": self.other_splits,
            "dropped": {reason: list(ids) for reason, ids in self.dropped.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WarmStart:
        """Of a study that goes on: what was taken over is in its log."""
        dropped = {reason: tuple(ids) for reason, ids in data["dropped"].items()}
        starts = tuple(data["start_points"])
        split = bool(data.get("starts_of_other_splits"))
        taken = data["taken_over"]
        return cls(data["source"], data["location"], taken, starts, dropped, other_splits=split)

    def lines(self) -> Iterator[str]:
        """What is said of it."""
        yield (
            f"warm start from {self.source}: {self.taken} trials taken over, "
            f"{len(self.starts)} settings are tried first"
        )
        if self.other_splits:
            yield (
                "  these were chosen on other splits: test examples of this study may have been "
                "seen by that choice, and its scores on test may be too good"
            )
        for reason, ids in sorted(self.dropped.items(), key=lambda item: -len(item[1])):
            yield f"  {len(ids)} not: {reason}"


def problems(space: Space, params: Mapping[str, Scalar]) -> list[str]:
    """Why a flat suggestion is none of this space; empty if it is one."""
    found, chosen = list[str](), dict[str, Scalar]()
    for key, param in space.params.items():
        if not param.applies(chosen):
            continue
        if key not in params:
            found.append(f"{key} is not set there")
            continue
        chosen[key] = params[key]
        domain = param.domain
        if domain.problem(params[key]) is None:
            continue
        if isinstance(domain, Values):
            found.append(f"{key} {params[key]} is not in this space")
        else:  # no two alike: counted together
            found.append(f"{key} is outside {domain.low:g} to {domain.high:g}")
    if not found:
        found = [f"{key} means nothing here" for key in params if key not in chosen]
    return found


@dataclass(frozen=True)
class Wish:
    """What a study asks for: to begin with ``source``, or to ``resume`` with what it began with."""

    source: str | None
    storage: str
    name: str
    resume: bool = False

    def answer(self, space: Space, seed: int, on: Fingerprint | None = None) -> WarmStart | None:
        """See :func:`plan`.

        Raises:
            InvalidSetting: there is no such study, it has nothing for this one, or a study that
                goes on began with another.
        """
        with naming(OPTION):
            folder = Storage.open(self.storage).sub(self.name)
            source = find(self.source, self.storage) if self.source is not None else None
            if self.resume:
                return self._began_with(folder, source)
            if source is None:
                return None
            if source.path() == folder.path():
                raise InvalidSetting(["a study is no source for itself; --resume goes on with it"])
            return plan(read(source), space, seed, on)

    def _began_with(self, folder: Storage, source: Storage | None) -> WarmStart | None:
        remedy = "delete it: the log knows what was taken over"
        known = sealed.read(folder, FILE, remedy) or {}
        stored = known.get("warm_start")
        if stored is None:
            if source is None:
                return None
            raise InvalidSetting(["a study that has begun takes nothing over: start a new one"])
        if source and str(source) != stored["location"]:
            raise InvalidSetting([f"the study began with {stored['location']}, not with {source}"])
        return WarmStart.from_json(stored)


def plan(source: Finished, space: Space, seed: int, on: Fingerprint | None = None) -> WarmStart:
    """What of a study can be used; without a fingerprint all that fits counts as start points.

    Raises:
        InvalidSetting: nothing.
    """
    taken, fitting = list[TrialState](), list[TrialState]()
    dropped: dict[str, list[str]] = {}
    for trial in source.state.searched:
        if reason := _unfit(space, seed, trial):
            dropped.setdefault(reason, []).append(trial.trial_id)
        elif on and space.to_trial(trial.params, seed).trial_id(on) == trial.trial_id:
            taken.append(trial)
        else:
            fitting.append(trial)
    starts = _spread(source.undominated(fitting), MOST_STARTS)
    chosen = {trial.number for trial in starts}
    if rest := [trial.trial_id for trial in fitting if trial.number not in chosen]:
        dropped["of other data, epochs or seed, and not among the best there"] = rest
    if not taken and not starts:
        raise InvalidSetting([f"{source.name} has nothing for this study{_most(dropped)}"])
    return WarmStart(
        source.name,
        str(source.storage),
        len(taken),
        tuple(dict(trial.params) for trial in starts),
        {reason: tuple(ids) for reason, ids in dropped.items()},
        tuple(taken),
        source.storage,
        any(on and t.record and t.record.origin.fingerprint.data != on.data for t in starts),
    )


def _unfit(space: Space, seed: int, trial: TrialState) -> str | None:
    """Why nothing can come of a trial here."""
    outcome = trial.record.outcome if trial.record else None
    if outcome is None or outcome.failed:  # it may work now
        return f"failed there: {outcome.cause if outcome else 'no record'}"
    if found := problems(space, trial.params):
        return found[0]
    try:
        space.to_trial(trial.params, seed)
    except InvalidSetting as error:
        return error.errors[0]
    return None


def _most(dropped: Mapping[str, Sequence[str]]) -> str:
    counts = Counter({reason: len(ids) for reason, ids in dropped.items()})
    shown = "; ".join(f"{n} of its trials: {reason}" for reason, n in counts.most_common(_SHOWN))
    return f": {shown}" if shown else ": no trial of it has a record"


def _spread(trials: Sequence[TrialState], most: int) -> list[TrialState]:
    """At most so many, evenly over their order, both ends among them."""
    if len(trials) <= most:
        return list(trials)
    return [trials[round(i * (len(trials) - 1) / (most - 1))] for i in range(most)]


def take_over(
    warm: WarmStart,
    into: Storage,
    state: StudyState,
    emit: Callable[[Event], None],
    say: Callable[[str], None],
) -> None:
    """Copy the files, then log the records: numbers from 0 on, in the order of the source.

    Raises:
        InvalidSetting: the study goes on, and was ended before it had taken everything over.
    """
    if warm.folder is None:
        if state.counts()[Phase.INHERITED] < warm.taken:
            raise InvalidSetting([f"resume: ended before it began; delete {into} and start anew"])
        return say(f"warm start from {warm.source}: {warm.taken} trials were taken over at first")
    for line in warm.lines():
        say(line)
    records = [_filed(trial, warm.folder, into) for trial in warm.trials]
    beside = _parent(warm.folder) == _parent(into)
    source = warm.source if beside else str(warm.folder)
    for number, (trial, record) in enumerate(zip(warm.trials, records, strict=True)):
        emit(Inherited(number, trial.params, trial.trial_id, record, source))


def _parent(folder: Storage) -> str:
    return folder.path().rpartition("/")[0]


def _filed(trial: TrialState, source: Storage, into: Storage) -> Record:
    """The trial's record. Without its files here it has no hash of them: it is no member then."""
    record = trial.record
    if record is None:
        raise ValueError(f"trial {trial.number} has no record")
    names = [artifact(trial.trial_id), probe(trial.trial_id)]
    try:
        files = [source.read_bytes(name) for name in names]
    except StorageError:  # only files near the front are kept
        files = []
    if files and hashlib.sha256(files[0]).hexdigest() == record.outcome.sha256:
        for name, data in zip(names, files, strict=True):
            into.write_bytes(name, data)
        return record
    return replace(record, outcome=replace(record.outcome, sha256=None, probe=None))

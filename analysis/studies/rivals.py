"""Several studies held against each other: whether they may be, and what of them is compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis import fronts, units
from analysis.alike import ALIKE, check_alike
from analysis.columns import metric, y_objective
from analysis.load import Row, StudyData, StudyDataError
from analysis.reference import corner
from trainables.record import Objective

__all__ = ["Field", "Rival", "field"]

Losses = NDArray[np.float64]

BESIDE = frozenset(
    {
        *("name", "seed", "space", "storage", "storage_patience", "tracking_uri", "optuna_storage"),
        *("published", "keep", "quota", "confirm", "resources", "concurrency", "price_per_hour"),
        *("plugins", "max_retries", "checkpoint_seconds"),
    }
)
"""What of a config makes no other search; repeats differ in nothing else, but in trials run.

The space stands whole beside the config, and so do the plugins' hashes.
"""


@dataclass(frozen=True)
class Rival:
    """A study in a comparison.

    Args:
        name: Tells it from the others.
        study: All of it.
        rows: Its search's trials by number, failed ones too.
        losses: (n, 2) of ``rows``: the metric's and that of log2 of the ratio; NaN without a file.
    """

    name: str
    study: StudyData
    rows: tuple[Row, ...]
    losses: Losses

    @property
    def front(self) -> list[tuple[Row, Losses]]:
        """What no other of its trials beats, smallest compression first."""
        at = np.flatnonzero(~np.isnan(self.losses[:, 0]))
        kept = at[fronts.non_dominated(self.losses[at])]
        order = kept[np.lexsort((self.losses[kept, 0], -self.losses[kept, 1]))]
        return [(self.rows[i], self.losses[i]) for i in order]

    @property
    def search(self) -> str | None:
        """What repeats of one study have in common; None where it does not say."""
        info = self.study.info
        config = info.get("config", {})
        if not info.get("space") or config.get("searcher") is None:
            return None
        # What is None is as good as unknown to the version that ran the study.
        asked = {k: v for k, v in config.items() if k not in BESIDE and v is not None}
        warm = (info.get("warm_start") or {}).get("source")
        found = [info["space"], asked, info.get("plugins") or {}, warm]
        return json.dumps(found, sort_keys=True)


@dataclass(frozen=True)
class Field:
    """Rivals on common axes: ``y`` is compared, ``reference`` the worst corner as losses.

    ``normalised`` is whether each one's metric is held against its own dense model.
    """

    y: Objective
    rivals: tuple[Rival, ...]
    reference: tuple[float, float]
    normalised: bool

    @property
    def repeats(self) -> list[list[Rival]]:
        """Two or more studies of the same space by the same searcher, in groups."""
        groups: dict[str, list[Rival]] = {}
        for rival in self.rivals:
            if rival.search is not None:
                groups.setdefault(rival.search, []).append(rival)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def label(self) -> str:
        """What is compared, for an axis."""
        if not self.normalised:
            return units.label(self.y)
        return f"{units.name(self.y)}, against dense's"

    @property
    def meaning(self) -> str:
        """What is compared, in words."""
        if not self.normalised:
            return units.name(self.y)
        return f"{units.name(self.y)} less that of each study's own dense model" + (
            "" if self.y.is_fraction else ", as a share of it"
        )


def field(studies: Sequence[StudyData], y: str | None = None, normalise: bool = False) -> Field:
    """The studies on common axes.

    Args:
        studies: At least two.
        y: A metric of the validation split; the first study's first objective by default.
        normalise: Hold each metric against the study's own dense model: the difference of a
            fraction, else the difference as a share of dense's. Tasks, splits and baselines may
            differ then.

    Raises:
        StudyDataError: Why they can't be compared, a line a reason.
    """
    if len(studies) < 2:
        raise StudyDataError("--compare needs two studies or more: name them")
    for study in studies:
        check_alike(study)
    objective = y_objective(studies[0], y)
    if found := list(_problems(studies, objective, normalise)):
        raise StudyDataError("\n".join(found))
    changes = [_normal(s, objective) if normalise else _same for s in studies]
    made = [
        _rival(name, study, objective, change)
        for name, study, change in zip(_names(studies), studies, changes, strict=True)
    ]
    return Field(objective, tuple(made), _reference(studies, objective, changes), normalise)


_Change = Callable[[float], float]


def _same(value: float) -> float:
    return value


def _dense(study: StudyData, y: Objective) -> float | None:
    rows = (row for row in study.rows if row.role == "dense")
    return next((metric(row, y.name) for row in rows), None)


def _normal(study: StudyData, y: Objective) -> _Change:
    dense = _dense(study, y) or 0.0
    unit = 1.0 if y.is_fraction else abs(dense)
    return lambda value: (value - dense) / unit


def _rival(name: str, study: StudyData, y: Objective, change: _Change) -> Rival:
    rows = sorted((r for r in study.rows if r.role == "search"), key=lambda row: row.number)
    return Rival(name, study, tuple(rows), np.array([_losses(r, y, change) for r in rows]))


def _losses(row: Row, y: Objective, change: _Change) -> tuple[float, float]:
    outcome, value = row.record.outcome, metric(row, y.name)
    if value is None or outcome.size is None or not outcome.sha256:
        return np.nan, np.nan
    return y.loss(change(value)), -outcome.size.log2_ratio


def _reference(
    studies: Sequence[StudyData], y: Objective, changes: Sequence[_Change]
) -> tuple[float, float]:
    """One corner for all: where they differ the worst in each, so that nobody's front is cut."""
    if all(change is _same for change in changes):
        found = [corner(studies, y)]
    else:
        own = [corner([study], y) for study in studies]
        found = [
            at and replace(at, value=change(at.value))
            for at, change in zip(own, changes, strict=True)
        ]
    corners = [at.loss(y) for at in found if at is not None]
    return max(a for a, _ in corners), max(b for _, b in corners)


def _names(studies: Sequence[StudyData]) -> list[str]:
    """Names of studies, with as much of their folders as tells them apart."""
    names = [study.name for study in studies]
    parts = [study.location.rstrip("/").split("/") for study in studies]
    for count in range(1, max(map(len, parts)) + 2):
        if len(set(names)) == len(names):
            return names
        names = ["/".join(part[-count:]) for part in parts]
    return [f"{i}: {study.name}" for i, study in enumerate(studies, 1)]


def _problems(studies: Sequence[StudyData], y: Objective, normalise: bool) -> Iterator[str]:
    """Why these studies cannot share axes, a sentence each."""
    places = [study.location for study in studies if study.location]
    for place in sorted({place for place in places if places.count(place) > 1}):
        yield f"{place}: is named twice; a study cannot be held against itself"
    for study in studies:
        rows = [row for row in study.rows if row.role == "search"]
        if not any(metric(row, y.name) is not None for row in rows):
            yield f"{study.name}: no trial of it has {y.name}; choose another metric by --y"
        elif not any(row.record.outcome.sha256 for row in rows):
            yield f"{study.name}: no trial of it has a file, so it has no front"
        elif y_objective(study, y.name) != y:
            yield f"{study.name}: {y.name} is not the metric there that it is in {studies[0].name}"
        if normalise and not _dense(study, y):
            yield f"{study.name}: has no dense baseline with {y.name} to normalise by"
    if normalise:
        return
    for what, of in ALIKE.items():
        values = [sorted({of(row) for row in study.rows}) for study in studies]
        if any(value != values[0] for value in values):
            names = zip(_names(studies), values, strict=True)
            shown = ", ".join(f"{name} {' and '.join(value)}" for name, value in names)
            yield f"{what} differ: {shown}; --normalise holds each against its own dense model"

"""A finished study's front as points: the runs whose files ship, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.comparisons import Comparison, compare
from analysis.stats import MARGIN, Interval, mean_interval
from study.events import Member
from study.finished import Finished
from trainables.record import Record, Size, Verification


@dataclass(frozen=True)
class Point:
    """A member of a study's front: the run whose file ships, and what is known of it.

    ``value`` is the primary metric on validation that decided: the mean over ``replicates`` where
    there are several runs. ``loss`` is that turned so that smaller is better, ``drop`` how much
    worse it is than the dense model's, as a margin counts: points of a fraction, else a share.
    """

    study: Finished
    member: Member
    record: Record

    @property
    def value(self) -> float:
        """See the class."""
        if self.member.mean is not None:
            return self.member.mean
        return self.record.outcome.metrics["val"][self.study.objective.name]

    @property
    def loss(self) -> float:
        """See the class."""
        return self.study.objective.loss(self.value)

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return self._size.file_bytes

    @property
    def ratio(self) -> float:
        """File of the dense model / this one."""
        return self._size.ratio

    @property
    def _size(self) -> Size:
        if self.record.outcome.size is None:
            raise ValueError(f"{self.member.trial_id} has no size")
        return self.record.outcome.size

    @property
    def verification(self) -> Verification | None:
        """Of the file, on test."""
        return self.study.state.verifications.get(self.member.trial_id)

    @property
    def is_verified(self) -> bool:
        """Whether what was tested is the file on record, and agreed with it."""
        found, outcome = self.verification, self.record.outcome
        if found is None or not found.verified:
            return False
        return (found.sha256, found.file_bytes) == (outcome.sha256, self.file_bytes)

    @property
    def verified_latency_ms(self) -> float | None:
        """Measured at the verification, or not at all."""
        return self.verification.latency_ms if self.verification else None

    @property
    def drop(self) -> float | None:
        """See the class."""
        dense, objective = self.study.state.baseline("dense"), self.study.objective
        if dense is None or dense.record is None:
            return None
        reference = dense.record.outcome.metrics["val"][objective.name]
        share = 1.0 if objective.is_fraction else abs(reference)
        return (self.loss - objective.loss(reference)) / share if share else None

    @property
    def test(self) -> float | None:
        """The primary metric of the file on test."""
        found = self.verification
        return found.metrics.get(self.study.objective.name) if found else None

    @property
    def test_over_seeds(self) -> Interval | None:
        """Mean and 95% t-interval over the runs with other seeds, where those were tested."""
        found = [self.study.state.verifications.get(i) for i in self.member.replicates]
        name = self.study.objective.name
        return mean_interval([v.metrics[name] for v in found if v and name in v.metrics])

    @property
    def against_dense(self) -> Comparison | None:
        """On the same test examples."""
        found = self.verification
        return compare(found, "dense", self.study.objective) if found else None


def front(study: Finished) -> list[Point]:
    """The study's front, smallest ratio first."""
    found = [(m, study.state.record_of(m.trial_id)) for m in study.members()]
    points = [Point(study, m, record) for m, record in found if record and record.outcome.size]
    return sorted(points, key=lambda point: point.ratio)


def smallest_baseline(study: Finished) -> tuple[str, float, str] | None:
    """Role, ratio and trial of the smallest baseline whose own drop on test is certified."""
    found = []
    for role, trial in study.state.baselines.items():
        check, size = study.state.verifications.get(trial.trial_id), _size_of(trial.record)
        versus = compare(check, "dense", study.objective) if check and check.verified else None
        if role != "dense_recovered" and versus and versus.bound <= MARGIN and size:
            found.append((size.ratio, role, trial.trial_id))
    ratio, role, trial_id = max(found, default=(0.0, "", ""))
    return (role, ratio, trial_id) if role else None


def _size_of(record: Record | None) -> Size | None:
    return record.outcome.size if record else None

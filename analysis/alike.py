"""What scores on one axis must have in common: within a study, and among studies compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analysis.load import Row, StudyData, StudyDataError

__all__ = ["ALIKE", "check_alike"]

ALIKE: Mapping[str, Callable[[Row], str]] = {
    "tasks": lambda row: str(row.record.trial.task),
    "splits": lambda row: row.record.origin.fingerprint.data,
    "dense baselines": lambda row: row.record.origin.fingerprint.weights,
}


def check_alike(study: StudyData) -> None:
    """Refuse a study whose records do not belong on one axis.

    Raises:
        StudyDataError: They are of several tasks, splits or dense models.
    """
    for what, of in ALIKE.items():
        if len(found := sorted({of(row) for row in study.rows})) > 1:
            raise StudyDataError(
                f"{study.location or study.name}: its records are of {len(found)} {what}, "
                f"{', '.join(found[:3])}: they share no axis; give each a study of its own"
            )

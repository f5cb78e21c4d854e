"""What a study came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.settings import Defaults, options
from study.events import Member
from study.tables import asked, measured
from trainables.record import Objective, Record, Verification

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StudyResult:
    """Records with their roles (search, or a baseline's), the front, where everything stands.

    ``members`` are the front's points with what their runs came to over seeds, in its order.
    ``objective`` is the task's primary metric. ``report`` are the names of the report's files by
    kind, within ``location``. ``exit_code`` is 0;
    1 if no trial gave a model; 128 + the signal's number if the study was interrupted.
    ``runs_page`` is the address at which MLflow shows the runs, '' if it has none.
    ``headline`` is the report's first sentence; ``ships`` the file of the smallest model that is
    certified, if one is.
    """

    name: str
    location: str
    records: tuple[Record, ...]
    front: tuple[Record, ...]
    verifications: Mapping[str, Verification] = field(default_factory=dict)
    report: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0
    remarks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tracking_uri: str = ""
    runs_page: str = ""
    objective: Objective = Objective("accuracy", unit="fraction")
    members: tuple[Member, ...] = ()
    headline: str = ""
    ships: str | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """All records, a row each."""
        import pandas as pd

        rows = [
            {"role": role, "trial_id": r.trial_id, **asked(r.trial), **measured(r)}
            for role, r in zip(self.roles, self.records, strict=True)
        ]
        return pd.DataFrame(rows)

    @property
    def front_frame(self) -> pd.DataFrame:
        """The front, a row a point, with its test metrics and, if run again, those over seeds."""
        from study.space.defaults import defaults  # all plugins, with torch

        frame = self.frame.drop_duplicates("trial_id").set_index("trial_id")
        frame = frame.loc[[r.trial_id for r in self.front]]
        known = Defaults.stated({"defaults": defaults()}).varied([r.trial for r in self.records])
        for record in self.front:
            frame.loc[record.trial_id, "options"] = options(record.trial, known)
            found = self.verifications.get(record.trial_id)
            for name, value in (found.metrics if found else {}).items():
                frame.loc[record.trial_id, f"test_{name}"] = value
        for member in self.members:
            if member.probability is not None:
                for name in ("mean", "low", "high"):
                    frame.loc[member.trial_id, f"val_{name}"] = getattr(member, name)
                frame.loc[member.trial_id, "probability"] = member.probability
        return frame.reset_index()

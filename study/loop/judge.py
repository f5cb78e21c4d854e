"""Whether a trial may go on after what it reported."""

from __future__ import annotations

from collections.abc import Sequence

from study.events import CONFIRM, SEARCH
from study.loop.brief import Plan
from study.objectives import standing
from study.schedulers import Rungs, Standing
from study.trial_state import TrialState
from trainables.record import Outcome, Report


class Judge:
    """The plan's demands and the scheduler's rungs, asked together."""

    def __init__(self, plan: Plan, rungs: Rungs) -> None:
        self.plan, self.rungs = plan, rungs
        self._passed: dict[int, int] = {}  # by trial, the epoch after which it was to go on

    def recall(self, trial: TrialState) -> None:
        """Show the rungs a trial of an earlier process."""
        if trial.role == SEARCH and trial.record and trial.record.outcome.size:
            self._ranked(trial, trial.reports, trial.record.outcome, 0)

    def go_on(
        self, trial: TrialState, reports: Sequence[Report], outcome: Outcome, restored: int = -1
    ) -> bool:
        """Whether the trial may go on; ``outcome`` is that of an end here.

        A trial that goes on from its checkpoint, ``restored`` so many epochs, reports all of them
        to rungs that may not know it. It is asked of no epoch anew after which it went on before.
        """
        if outcome.size is None or outcome.failed:
            return True
        if trial.role == CONFIRM:  # as long as the one that it repeats
            return outcome.epochs_done < int(trial.params["until"])
        if trial.role != SEARCH:
            return True
        since = max(restored, self._passed.get(trial.number, -1) + 1)
        if allowed := self._ranked(trial, reports, outcome, since):
            self._passed[trial.number] = max(since - 1, outcome.epochs_done)
        return allowed

    def _ranked(
        self, trial: TrialState, reports: Sequence[Report], outcome: Outcome, since: int
    ) -> bool:
        go_on = True
        for report in reports:
            if self.plan.demands.hopeless(report, outcome):
                return False
            if (losses := standing(self.plan.aims, report, outcome)) is not None:
                at = Standing(report.epochs_done, losses, report.seconds)
                allowed = self.rungs.on_report(trial.trial_id, at)
                go_on = go_on and (allowed or report.epochs_done < since)
        return go_on

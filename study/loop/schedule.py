"""The scheduler and the stopper that Ray Tune asks: both only pass the question on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from study.loop.retries import Loss, loss_of
from trainables.hardware.memory import Kills


class Judge(Protocol):
    """Who takes a trial's results and decides; ``trial`` is Tune's own id."""

    def on_result(self, trial: str, result: Mapping[str, Any]) -> bool:
        """Take a result; whether the trial may go on."""

    def on_lost(self, trial: str, loss: Loss) -> None:
        """The trial's worker raised or died."""


class JudgeScheduler(FIFOScheduler):
    """First in, first out; a trial ends early when the judge says so."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge, self._kills = judge, Kills()

    def on_trial_result(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """See :class:`Judge`."""
        go_on = self._judge.on_result(trial.trial_id, result)
        return TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP

    def on_trial_complete(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """The last result of a trial comes here instead."""
        self._judge.on_result(trial.trial_id, result)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        """See :class:`Judge`."""
        # Not by its `get_error`, which looks where Tune's snapshots would be: these are off.
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        self._judge.on_lost(trial.trial_id, loss_of(told, self._kills.is_one(told)))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it holds; nobody reads that pickle."""
        return {}


class StopWhen(Stopper):
    """Ends the experiment when a question is answered with yes."""

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question = question

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """No trial ends by this."""
        return False

    def stop_all(self) -> bool:
        """Ask."""
        return self._question()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it holds; nobody reads that pickle."""
        return {}

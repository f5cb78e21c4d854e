"""The study's loop: from Tune's questions to events, and from events to every view of the study.

Whatever happens is first written to the log, then applied to the state, then shown to the views.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from study.events import (
    CONFIRM,
    SEARCH,
    Answered,
    Cause,
    Ended,
    Event,
    Reported,
    Retried,
    Started,
    Suggested,
)
from study.loop.at_work import AtWork
from study.loop.brief import Asks, Log, Plan, View
from study.loop.confirm import Replicate
from study.loop.hold import Hold
from study.loop.judge import Judge
from study.loop.placement import Room
from study.loop.retries import Loss, Retries
from study.schedulers import Rungs
from study.state import StudyState, TrialState
from trainables.record import (
    Outcome,
    Record,
    Report,
    Scalar,
    Status,
    Trial,
    canonical,
    from_json,
)

FINISHED = "FINISHED"  # ray.tune.search.Searcher.FINISHED
MOST_DUPLICATES = 100  # in a row; then the space counts as exhausted
UNTIMED = "NoLatency: the study asks for latency_ms, and no form like this one could be timed"


class Driver:
    """Suggests, takes results, decides, and writes everything down."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        state: StudyState,
        search: Asks,
        rungs: Rungs,
        baselines: Mapping[str, Trial],
        views: Sequence[View] = (),
        say: Callable[[str], None] = print,
        hold: Hold | None = None,
    ) -> None:
        self.plan, self.log, self.state = plan, log, state
        self.search, self.views, self.say = search, views, say
        self.stopping: str | None = None
        self.searched_enough: str | None = None
        self.hold, self._refusal = hold, ""
        self.exhausted = self.broken = False
        self._began, self._spent_before = time.monotonic(), state.spent_until(time.time())
        self._running = AtWork()
        self._aliases: dict[str, list[int]] = {}
        self._judge = Judge(plan, rungs)
        self._retries = Retries(plan.max_retries, say)
        self._wanted: tuple[tuple[int, int], Sequence[Replicate]] | None = None
        self._room = Room(plan.concurrency, plan.memory, say)
        self._fingerprint = plan.origin().fingerprint
        self._queue = deque(t.number for t in state.interrupted() if not t.alone)
        # Those that ran out of memory: each waits until nothing else runs.
        self._alone = deque(t.number for t in state.interrupted() if t.alone)
        self._baselines = {k: v for k, v in baselines.items() if state.baseline(k) is None}
        self._first_baseline = -len(baselines)
        self._refill()

    def _refill(self) -> None:
        """Bring back what the reports of an earlier process tell of rungs and room."""
        for trial in self.state.trials.values():
            self._room.take(trial.record.outcome.peak_memory if trial.record else None)
            self._judge.recall(trial)

    def emit(self, event: Event) -> None:
        """Log, apply, show."""
        self.log.append(event)
        self.state.apply(event)
        for view in (self.search, *self.views):
            view.put(event)

    @property
    def spent_seconds(self) -> float:
        """Time worked on since the study was opened, earlier processes included."""
        return self._spent_before + time.monotonic() - self._began

    def stop(self, reason: str) -> None:
        """Start no more trials and end those that run; they start again with a resume."""
        self.stopping = self.stopping or reason

    def should_stop(self) -> bool:
        """Whether everything is to end now."""
        if self.stopping is None:
            over = self.plan.limits.over(self.state, self.spent_seconds, searching=False)
            self.stopping = over
        return self.stopping is not None

    def next(self, tune_id: str) -> Mapping[str, Any] | str | None:
        """Config of the trial that a worker is to run next; None for not now; or FINISHED."""
        if self.hold is not None and not self.hold.lifted():
            self._give_up_waiting()
            return FINISHED if self.should_stop() else None
        if self.should_stop():
            return FINISHED
        if len(self._running) >= self._room.limit or (self._running and self._crowded):
            return None
        number = self._next_number()
        if number is None:  # what runs may come to need another run, or call for confirmations
            return None if self._running else FINISHED
        trial = self.state.trials[number]
        self._running.begin(tune_id, trial)
        self.emit(Started(number, trial.trial_id, time.time()))
        config = {"number": number, "trial": canonical(trial.trial), "begun": trial.starts > 1}
        return config | ({"until": trial.params["until"]} if trial.role == CONFIRM else {})

    @property
    def _crowded(self) -> bool:
        """Whether a trial runs alone, or is to as soon as the others have ended."""
        return bool(self._alone) or self._running.crowded

    def _next_number(self) -> int | None:
        """What needs the place to itself, what was interrupted, baselines, new suggestions."""
        if self._alone:
            return self._alone.popleft()
        while self._queue:
            if (number := self._unless_known(self._queue.popleft())) is not None:
                return number
        if self._baselines:
            role = next(iter(self._baselines))
            trial = self._baselines.pop(role)
            taken = len(self.state.baselines)
            return self._suggest(self._first_baseline + taken, role, {}, trial)
        number = self._search()
        return self._confirm() if number is None else number

    def _search(self) -> int | None:
        for _ in range(MOST_DUPLICATES):
            if self.searched >= self.plan.trials or self._had_enough():
                return None
            number = self.state.next_number
            if (params := self.search.ask(number)) is None:
                break
            trial = self.plan.space.to_trial(params, self.plan.seed)
            self._suggest(number, SEARCH, params, trial)
            if self._unless_known(number) is not None:
                return number
        self.exhausted = True
        return None

    def _had_enough(self) -> bool:
        """Whether the search is over before all its trials are."""
        if self.searched_enough is None:
            over = self.plan.limits.over(self.state, self.spent_seconds, searching=True)
            self.searched_enough = over
        return self.searched_enough is not None

    def _confirm(self) -> int | None:
        """A point of the front with another seed, once the search's last trial has ended."""
        if self.plan.confirm is None or self._running.any_of(SEARCH):
            return None
        known = len(self.state.finished), self.state.counts()["answered"]
        if self._wanted is None or self._wanted[0] != known:  # it is asked at every turn
            self._wanted = known, self.plan.confirm(self.state)
        for wanted in self._wanted[1]:
            if not self._running.has(wanted.trial.trial_id(self._fingerprint)):
                params: dict[str, Scalar] = {"of": wanted.of, "until": wanted.until}
                return self._suggest(self.state.next_number, CONFIRM, params, wanted.trial)
        return None

    @property
    def left(self) -> int:
        """Trials still to be run, baselines and those to be run again among them."""
        again = len(self._queue) + len(self._alone) + len(self._baselines)
        return again + max(0, self.plan.trials - self.searched)

    @property
    def searched(self) -> int:
        """Search trials that were run or are being run; answered ones cost no budget."""
        counts = self.state.counts()
        waiting = sum(map(len, self._aliases.values()))
        return counts["ran"] + counts["running"] + counts["waiting"] - waiting

    def _suggest(self, number: int, role: str, params: Mapping[str, Scalar], trial: Trial) -> int:
        trial_id = trial.trial_id(self._fingerprint)
        self.emit(Suggested(number, role, dict(params), trial, trial_id))
        return number

    def _unless_known(self, number: int) -> int | None:
        """The number, unless the same trial has a record or is being run."""
        trial_id = self.state.trials[number].trial_id
        if (record := self.state.record_of(trial_id)) and self._settles(record.outcome):
            self.emit(Answered(number, trial_id))
            return None
        if self._running.has(trial_id):
            self._aliases.setdefault(trial_id, []).append(number)
            return None
        return number

    def _settles(self, outcome: Outcome) -> bool:
        """Whether a duplicate need not be run: there is a file, or there would be none again."""
        if outcome.sha256 or outcome.failed:
            return True
        return any(self.plan.demands.hopeless(report, outcome) for report in outcome.curve)

    def on_result(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Take a worker's result; whether its trial may go on."""
        if (trial := self._running.get(tune_id)) is None:
            return False  # it was given to another worker, or has ended
        if "trouble" in result:
            self._hold_for(tune_id, str(result["trouble"]))
            return False
        if "outcome" not in result:
            return True
        self._retries.lived()
        outcome = from_json(Outcome, json.loads(result["outcome"]))
        reports = [from_json(Report, r) for r in json.loads(result["reports"])]
        outcome = replace(outcome, latency_ms=self.plan.latency(trial.trial))
        restored = int(result.get("restored", -1))
        self._say_where(trial, restored, json.loads(result.get("remarks", "[]")))
        known = min(trial.reported, restored - 1)  # what it stands at is said again, and judged
        for report in reports:
            if report.epochs_done > known:
                self.emit(Reported(trial.number, trial.trial_id, report))
        if trial.role == SEARCH and self.plan.untimed(outcome):
            self._end(tune_id, Outcome(Status.FAILED, error=UNTIMED, seconds=outcome.seconds))
            return False
        go_on = self._judge.go_on(trial, reports, outcome, restored)
        if result.get("done") or not go_on:
            self._end_or_retry(tune_id, trial, outcome)
        return go_on

    def _hold_for(self, tune_id: str, refusal: str) -> None:
        """A file of a trial was refused: it is run again as soon as the storage works."""
        self._put_back(tune_id, Loss(Cause.STORAGE, refusal))
        self._refusal = refusal
        if self.hold is not None:
            self.hold.begin(refusal)
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        if self.hold is None or self.hold.over:
            self.stop(self._refusal)

    @property
    def refused(self) -> str | None:
        """What a storage would not take, if the search ended for it, or while it was waited."""
        waiting = self.hold is not None and self.hold.closed
        if self.stopping is None or not (waiting or self.stopping == self._refusal):
            return None
        return f"{self._refusal}; the study is paused, --resume goes on"

    def on_lost(self, tune_id: str, loss: Loss) -> None:
        """A worker raised outside a trial's own code, or died."""
        trial = self._running.get(tune_id)
        if trial is None or self.stopping:
            return
        if self._retries.lost(loss, self.state.ever_reported):
            self.broken = True
            self._put_back(tune_id, loss)
            self.stop(f"no worker lives long enough to report: {loss.error}")
        elif self._retries.allow(trial, loss.cause):
            self._put_back(tune_id, loss)
        else:
            self._end(tune_id, self._retries.given_up(trial, loss))

    def _end_or_retry(self, tune_id: str, trial: TrialState, outcome: Outcome) -> None:
        """A trial without room for it gets one more run with nothing beside it."""
        if outcome.status is Status.OUT_OF_MEMORY and self._retries.allow(trial, Cause.MEMORY):
            self._put_back(tune_id, Loss(Cause.MEMORY, str(outcome.error)))
        else:
            self._end(tune_id, outcome)

    def _put_back(self, tune_id: str, loss: Loss) -> None:
        """The trial is the next to be run, or is run alone."""
        trial = self._running.end(tune_id)
        if loss.cause is Cause.MEMORY:
            self._alone.append(trial.number)
        else:
            self._queue.appendleft(trial.number)
        self.emit(Retried(trial.number, trial.trial_id, loss.error, time.time(), loss.cause))
        if loss.cause is not Cause.STORAGE:
            again = "once more, alone" if loss.cause is Cause.MEMORY else "again"
            self.say(f"{trial.trial_id}: {loss.error}; it is run {again}")

    def _say_where(self, trial: TrialState, restored: int, remarks: Sequence[str]) -> None:
        """Where a trial that was begun before goes on, and what its worker had to say."""
        for remark in remarks:
            self.say(f"{trial.trial_id}: {remark}")
        if restored >= 0:
            self.say(f"{trial.trial_id}: goes on after epoch {restored} of {trial.trial.epochs}")

    def _end(self, tune_id: str, outcome: Outcome) -> None:
        trial = self._running.end(tune_id)
        record = Record(trial.trial, outcome, self.plan.origin())
        self._room.take(outcome.peak_memory)
        self.emit(Ended(trial.number, trial.trial_id, record, time.time()))
        for waiting in self._aliases.pop(trial.trial_id, []):
            self.emit(Answered(waiting, trial.trial_id))
        self._retries.watch(outcome)
        if self.hold is not None and outcome.sha256:
            self.hold.stored()

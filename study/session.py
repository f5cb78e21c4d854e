"""One process's work on a study: search, verify, write everything down."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from analysis.load import StudyDataError, load_study
from analysis.markup import spans
from analysis.summary import headline
from analysis.telling import told, wrapped
from compression.registry import InvalidSetting
from study import description
from study.constraints import Demands
from study.events import Closed, Event, Opened, Verified
from study.keeping import disk
from study.keeping.retention import missing
from study.latency import Table, measured
from study.layerwise.guide import Guide, guide
from study.log import EventLog
from study.loop.confirm import freeze, front
from study.loop.limits import limits
from study.loop.searching import Searching
from study.loop.setting import Setting
from study.objectives import aims
from study.once import run_once
from study.origin import now, versions
from study.result import StudyResult
from study.retiming import retime
from study.signals import Interrupted, Interrupts, leave
from study.state import StudyState
from study.store import reads
from study.store.files import REPORT
from study.tables import write_parquet
from study.terminal.live import LINE_SECONDS, Live
from study.tracking import Tracker, ending, page_address, params_of_study
from study.verify import Job, unverified, verify
from study.warm_start import take_over
from trainables.record import Record


@dataclass(frozen=True)
class Report:
    """Its files by kind, its first sentence, and the file of the model that it says to ship."""

    files: Mapping[str, str] = field(default_factory=dict)
    headline: str = ""
    ships: str | None = None


class Session:
    """See the module."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.config, self.data = setting, setting.config, setting.data
        self.storage, self.space = setting.storage, setting.space
        self.objective = setting.config.task.objective
        self.aims = aims(setting.config.task, setting.config.objectives)
        self.state = StudyState()
        self.cached, self.guide, self.table = True, Guide(), Table()
        self.used: dict[str, int] = {}

    def run(self) -> StudyResult:
        """Work until the study is done, or interrupted.

        Raises:
            StorageError: another process writes the study, or its files can't be written for
                longer than the config's ``storage_patience``.
            VerificationError: the verifying process failed as a whole.
        """
        began, result = time.time(), None
        with EventLog(self.storage) as log:
            self.log, self.state = log, StudyState(log.events)
            if removed := disk.tidy(self.storage, self.state):
                self._tell(removed)
            self.state.gone = missing(self.state, self.storage)
            self.demands = Demands.of(self.config.task, self.config.constraints, self.state)
            self.events = list(log.events)
            params = params_of_study(self.config.to_json())
            tracker = Tracker(self.storage, self.setting.name, self.setting.tracking_uri, params)
            try:
                result = self._work()
            except KeyboardInterrupt:  # the second signal: nothing is waited for
                tracker.close()
                raise
            finally:
                reason = f"exit {result.exit_code}" if result else "failed"
                try:
                    self._emit(Closed(time.time(), reason, time.time() - began))
                    log.close()
                finally:
                    points = [r.trial_id for r in result.front] if result else []
                    summary = tracker.finish(ending(self.state), points, say=self._tell)
        behind = (str(summary),) if summary.error else ()
        page = page_address(self.setting.tracking_uri, summary.page)
        return replace(result, remarks=(*behind, disk.as_text(self.used)), runs_page=page)

    def _tell(self, line: str) -> None:
        if not self.setting.quiet:
            print(wrapped(line), file=sys.stderr, flush=True)

    def _emit(self, event: Event) -> None:
        self.log.append(event)
        self.state.apply(event)
        self.events.append(event)

    def _work(self) -> StudyResult:
        config = self.config
        before = self.state.counts()
        spent = self.state.spent_seconds
        again, resumed = len(self.state.interrupted()), bool(self.state.opened)
        identity = description.identity_hash(description.identity(config, self.data))
        self._check_identity(identity)
        self._emit(Opened(time.time(), identity, versions(), resumed))
        live = Live(
            self.state,
            config.trials,
            self.objective,
            config.task.chance,
            None if (most := limits(config, self.aims).seconds) is None else most - spent,
            self.setting.quiet,
            self.aims[2:],
            self.demands.met,
        )
        if resumed:
            done = before["ran"]
            left = max(0, config.trials - done - again)
            live.say(f"resuming {self.setting.name}: {done} done, {again} again, {left} left")
        if warm := self.setting.warm:
            self._describe()  # before the log: it says what is still to be taken over
            take_over(warm, self.storage, self.state, self._emit, live.say)
        for remark in self.log.remarks:
            live.say(remark)
        with Interrupts() as interrupts:
            patience = self.storage.patience
            patience.say, patience.stopped = live.say, lambda: interrupts.caught is not None
            for step in (self._run_once, self._search, self._freeze, self._verify):
                self._describe()
                step(live, interrupts)
                self.log.flush()  # no view shows what is not stored
                write_parquet(self.storage, self.state, self.objective.name)
                if interrupts.caught is not None:
                    self._describe()
                    return self._result(128 + interrupts.caught)
        self._describe()
        with told(live.say, "writing the report"):
            report = self._report(live)
        result = self._result(0 if self._members() else 1)
        return replace(result, report=report.files, headline=report.headline, ships=report.ships)

    def _check_identity(self, identity: str) -> None:
        """The log's word counts: ``study.json`` may be missing, or another process was faster."""
        opened = self.state.opened
        if opened and not self.setting.resume:
            raise InvalidSetting([f"name: '{self.setting.name}' exists; add --resume to go on"])
        if opened and opened[0].identity != identity:
            raise InvalidSetting(
                [f"resume: the log of '{self.setting.name}' is of another space, seed or data"]
            )

    def _run_once(self, live: Live, interrupts: Interrupts) -> None:
        """Put the data through what no trial changes, on all cores, before trials ask for it.

        Workers on other machines have other caches: there the first trial does it.
        """
        if self.setting.address is None:
            self.cached = run_once(self.config, self.space, self.data, live.say, interrupts)
        with suppress(Interrupted), interrupts.calling(leave):
            self.guide = guide(self.config, self.space, self.data, self.storage, live.say)
        self.table = measured(
            self.config, self.space, self.data, self.storage, live.say, interrupts, self._overdue
        )
        self.events = retime(self.state, self.events, self.table.of)

    def _overdue(self) -> bool:
        """Whether the time that the study may take is spent before its trials."""
        most = limits(self.config, self.aims).seconds
        return most is not None and self.state.spent_until(time.time()) >= most

    def _search(self, live: Live, interrupts: Interrupts) -> None:
        """Run trials until there are enough, or until something stops the driver."""
        Searching(
            self.setting,
            self.log,
            self.state,
            self.events,
            self.aims,
            self.demands,
            self.guide,
            self.table,
            self.cached,
        ).run(live, interrupts)

    def _freeze(self, live: Live, interrupts: Interrupts) -> None:
        """Decide on validation who is on the front, before test is read."""
        config, met = self.config, self.demands.met
        frozen = freeze(self.state, self.aims, time.time(), config.confirm, config.seed, met)
        before = self.state.frozen
        if before is None or replace(frozen, at=before.at) != before:
            self._emit(frozen)
        if not frozen.members and (short := self.demands.shortfall(self.state)):
            live.say(short)

    def _members(self) -> list[Record]:
        """The front as it was decided; while nothing was, as it is now."""
        if self.state.frozen is None:
            points = front(self.state, self.aims, self.demands.met)
            return [t.record for t in points if t.record]
        found = (self.state.record_of(m.trial_id) for m in self.state.frozen.members)
        return [record for record in found if record]

    def _verify(self, live: Live, interrupts: Interrupts) -> None:
        """Score the front and the baselines on test, unless all of them were."""
        baseline_ids, missing = unverified(self.state)
        if not missing:
            return
        live.say(f"verifying {len(self._members())} points of the front and the baselines on test")
        chosen = dict.fromkeys([*baseline_ids.values(), *missing])
        records = tuple(r for i in chosen if (r := self.state.record_of(i)))
        fingerprint = self.data.fingerprint.data
        reads.add(self.setting.root, fingerprint, self.setting.name, len(records), now())
        job = Job(
            self.storage.uri,
            self.space.task,
            self.config.seed,
            self.config.resources.cpus,
            records,
            baseline_ids,
            {file.name: file.source for file in self.config.plugins},
        )
        shown = time.monotonic()
        for done, verification in enumerate(verify(job), 1):
            if verification.trial_id in missing:
                self._emit(Verified(verification))
            if time.monotonic() - shown > LINE_SECONDS:
                live.say(f"verified {done} of {len(records)}")
                shown = time.monotonic()
            for problem in verification.problems:
                live.say(f"{verification.trial_id}: {problem}")

    def _describe(self) -> None:
        ledger = reads.reads(self.setting.root, self.data.fingerprint.data)
        content = description.describe(
            self.config, self.setting.name, self.data, self.state, ledger, self.setting.warm
        )
        self.used = disk.used(self.storage)
        description.write(self.storage, content | {"disk_bytes": self.used})

    def _report(self, live: Live) -> Report:
        from analysis.findings import findings
        from analysis.report import write_findings  # matplotlib, not before it is needed

        try:
            found = findings(load_study(self.storage.uri))
            where = self.storage.path(REPORT)
            write = partial(write_findings, found, self.storage.filesystem, where)
            paths = self.storage.patiently("write", "report", write)
        except StudyDataError as error:
            live.say(f"no report: {error}")
            return Report()
        files = {kind: path for kind, path in vars(paths).items() if path is not None}
        certified = found.certified
        ships = self.storage.path(str(certified.values["artifact"])) if certified else None
        text = "".join(words for _, words in spans(headline(found)))
        return Report(files, text, ships)

    def _result(self, exit_code: int) -> StudyResult:
        return StudyResult(
            name=self.setting.name,
            location=str(self.storage),
            records=tuple(self.state.records),
            roles=tuple(t.role for t in self.state.ended if t.record),
            tracking_uri=self.setting.tracking_uri,
            front=tuple(self._members()),
            members=self.state.frozen.members if self.state.frozen else (),
            verifications=dict(self.state.verifications),
            exit_code=exit_code,
            objective=self.objective,
        )

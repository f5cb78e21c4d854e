"""The search of a study: its driver put together, and Ray Tune run until it has no more trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from analysis.telling import told
from study.constraints import Demands
from study.errors import StudyError
from study.events import Event
from study.keeping.quota import Quota
from study.keeping.retention import Retention
from study.keeping.sweeper import Sweeper
from study.latency import Table
from study.layerwise.guide import Guide
from study.log import EventLog
from study.loop.brief import Plan, View
from study.loop.confirm import Replicate, wanted
from study.loop.driver import Driver
from study.loop.hold import Hold
from study.loop.limits import limits
from study.loop.placement import Placement
from study.loop.setting import Setting
from study.objectives import Aim
from study.once import Pass
from study.origin import origin
from study.schedulers import Budget, Rungs
from study.signals import Interrupted, Interrupts, leave
from study.space.baselines import baselines
from study.state import StudyState
from study.store.files import CHECKPOINTS, FEATURES, FOLDER
from study.store.patience import Patience
from study.store.storage import Storage, StorageError
from study.terminal.live import Live
from study.tracking.optuna_view import in_optuna

if TYPE_CHECKING:
    from study.loop.search import StudySearch


class WorkersLost(StudyError):
    """No worker lives long enough to run a trial; the message holds the cause."""


@dataclass(frozen=True)
class Searching:
    """What a search is put together from."""

    setting: Setting
    log: EventLog
    state: StudyState
    events: Sequence[Event]
    aims: Sequence[Aim]
    demands: Demands
    guide: Guide
    table: Table
    cached: bool

    def run(self, live: Live, interrupts: Interrupts) -> None:
        """Run trials until there are enough, or until something stops the driver."""
        from clusters.connection import connected
        from study.loop.tuning import once_for_all, placed, tune_until_done
        from trainables.trainable import Context, Shared

        setting, config = self.setting, self.setting.config
        budget = Budget(config.epochs, setting.space.min_fidelity())
        context = Context(
            config.task,
            setting.data,
            setting.storage.sub(FOLDER).patient(Patience()),  # it is the driver that waits
            config.scheduler.milestones(budget),
            config.resources.cpus,
            self.cached,
            bool(self.demands.of_form),
            self._checkpoints(),
            config.checkpoint_seconds,
            self._features(),
        )
        search = self._searcher()
        with ExitStack() as stack:
            with told(live.say, "starting Ray"):
                ray = connected(setting.address, setting.cpus, threads=config.resources.cpus)
                stack.enter_context(ray)
            interrupts.arm()
            shared = Shared.put(context, config.plugins)
            placement = placed(config, shared, setting.promised)
            if setting.address is not None:
                with suppress(Interrupted), interrupts.calling(leave):
                    passed = Pass.of(config, setting.space)
                    if not once_for_all(passed, shared, placement, live.say):
                        context = replace(context, cached=False)
                        shared = Shared.put(context, config.plugins)
            for remark in (*placement.remarks, *config.scheduler.notes(budget)):
                live.say(remark)
            with self._in_optuna(search, live) as shown:
                rungs = config.scheduler.start(budget)
                driver = self._driver(search, rungs, placement, live, shown)
                with interrupts.calling(driver.stop), live, self._log_first():
                    tune_until_done(driver, search, shared, placement)
        if context.features is not None:
            setting.storage.discard(FEATURES)
        if reason := driver.stopping or driver.searched_enough:
            live.say(f"stopped: {reason}")
        if driver.broken:
            raise WorkersLost(driver.stopping)
        if driver.refused:
            raise StorageError(driver.refused)
        if driver.exhausted:
            live.say("the space is exhausted: nothing is left to suggest that was not run already")

    def _features(self) -> Storage | None:
        """Where the machines of a cluster share features; on one machine its cache is enough."""
        if self.setting.address is None:
            return None
        return self.setting.storage.sub(FEATURES).patient(Patience())

    def _checkpoints(self) -> Storage:
        """Where checkpoints are; nobody waits for a storage that refuses them."""
        return self.setting.storage.sub(CHECKPOINTS).patient(Patience())

    @contextmanager
    def _log_first(self) -> Iterator[None]:
        """What ended the log is what ended the search: Tune wraps what it meets in its own error.

        Raises:
            StorageError: the log could not be written.
        """
        try:
            yield
        except Exception as error:
            if self.log.error is None or error is self.log.error:
                raise
            raise self.log.error from None

    def _in_optuna(self, search: StudySearch, live: Live) -> AbstractContextManager[Sequence[View]]:
        place, name = self.setting.config.optuna_storage, self.setting.name
        objectives = [aim.objective for aim in self.aims]
        return in_optuna(place, objectives, name, self.state, search.told, live.say)

    def _driver(
        self,
        search: StudySearch,
        rungs: Rungs,
        placement: Placement,
        live: Live,
        others: Sequence[View],
    ) -> Driver:
        setting, config = self.setting, self.setting.config
        plan = Plan(
            setting.space,
            config.seed,
            config.trials,
            placement.concurrency,
            self.aims,
            partial(origin, setting.data.fingerprint, config.plugin_hashes(), str(placement)),
            limits(config, self.aims, placement.gpus, self.demands.met),
            placement.memory,
            self._confirming(),
            self.demands,
            self.table.of,
            config.max_retries,
        )
        storage = setting.storage.patient(Patience())  # nobody waits to delete a file
        quota = Quota(storage, config.quota, live.say) if config.quota else None
        retention = Retention(storage, self.state, self.aims, config.margin, self.demands, quota)
        return Driver(
            plan,
            self.log,
            self.state,
            search,
            rungs,
            baselines(setting.space, config.seed),
            (retention, Sweeper(self._checkpoints()), live, *others),
            live.say,
            self._hold(live),
        )

    def _hold(self, live: Live) -> Hold | None:
        """For as long as the user's patience goes; None if there is none."""
        artifacts = self.setting.storage.sub(FOLDER).patient(Patience())

        def probe() -> None:
            sizes = [r.outcome.size.file_bytes for r in self.state.records if r.outcome.size]
            artifacts.check_writable(max(sizes, default=1))

        seconds = self.setting.config.storage_patience
        return Hold(probe, seconds, live.say) if seconds else None

    def _confirming(self) -> Callable[[StudyState], Sequence[Replicate]] | None:
        rule, met = self.setting.config.confirm, self.demands.met
        return partial(wanted, self.aims, rule, self.setting.config.seed, met=met) if rule else None

    def _searcher(self) -> StudySearch:
        """The searcher, told of what happened so far."""
        from study.loop.search import StudySearch

        config = self.setting.config
        search = StudySearch(
            config.searcher,
            self.setting.space,
            self.aims,
            config.seed,
            starts=(*(self.setting.warm.starts if self.setting.warm else ()), *self.guide.starts),
            repair=self.guide.repair,
            violations=self.demands.violations,
        )
        search.replay(self.events)
        return search

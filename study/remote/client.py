"""On the user's machine: a study is shipped to a cluster, watched, fetched, ended."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from analysis.masking import masked
from clusters import package, state
from clusters.check import Check
from clusters.cluster import Cluster, Entrance, at_work
from clusters.derived import MLFLOW_PORT
from clusters.errors import ClusterError, InvalidCluster
from clusters.jobs import Job
from clusters.ssh import Ssh
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.plugins import PluginFile
from study.remote import looks, results
from study.remote.order import Order, in_our_words, read, say
from study.remote.spec import COMMAND, CONFIG, Spec
from study.remote.watching import Gone, exit_code, watch

DETACHED = 130


class Remote:
    """A cluster, as the command line deals with it."""

    def __init__(self, path: Path) -> None:
        """Read its file.

        Raises:
            InvalidSetting: it is wrong.
        """
        self.path = path
        self.file = read(path)
        with in_our_words():
            self.cluster = Cluster(self.file, state.home() / "clusters")

    def overrides(self, order: Order) -> dict[str, str]:
        """What the command line and the cluster's file say of a study, over its own file.

        MLflow is the head's own server where nobody names another.
        """
        ours, plugins, config = self.file.settings, self._plugins(order), order.config
        decided = dict(order.overrides)
        if plugins:  # by the names that they have in the job's folder
            decided["plugins"] = json.dumps([file.name for file in plugins])
        if ours.storage is not None:
            decided.setdefault("storage", json.dumps(ours.storage))
        here = f"http://127.0.0.1:{MLFLOW_PORT}"
        tracking = ours.tracking_uri or (None if config.tracking_uri else here)
        if tracking:
            decided.setdefault("tracking_uri", json.dumps(tracking))
        if ours.trials_per_gpu > 1 and config.resources.gpus == "auto":
            decided["resources.gpus"] = str(int(10_000 / ours.trials_per_gpu) / 10_000)
        return decided

    @cached_property
    def _wheel(self) -> package.Wheel:
        return package.wheel()

    def _plugins(self, order: Order) -> list[PluginFile]:
        beside = self.path.parent
        more = [PluginFile.read(beside / name) for name in self.file.settings.plugins]
        return list({file.name: file for file in (*order.config.plugins, *more)}.values())

    def checks(self, order: Order | None = None) -> Iterator[Check]:
        """All that can be known before a launch, as it becomes known."""
        yield looks.python_check(self.file.settings)
        yield looks.packages_check(self.file.settings)
        yield package.size_check(self._wheel, self._files(order) if order else {})
        yield looks.storage_check(self.file, order)
        if order:
            yield looks.name_check(self.file, order)
            yield looks.gpu_check(self.file, self.cluster.kind, order.config)
            yield from looks.path_checks(order)
        yield from self.cluster.checks()

    def _files(self, order: Order) -> dict[str, bytes]:
        named = {file.name: file.source.encode() for file in self._plugins(order)}
        return {CONFIG: order.path.read_bytes(), **named}

    def run(self, order: Order) -> results.Ended:
        """Ship a study, follow it, fetch what came of it.

        Raises:
            InvalidSetting: a check failed; nothing is left running that this call started.
            StudyError: the cluster failed on the way.
        """
        self.check(order)
        with in_our_words():
            needed = package.requirements(self.file.settings.extras)
            started = self.cluster.up(needed, say)
            try:
                job = self._submit(order)
            except (InvalidCluster, ClusterError, StudyError, KeyboardInterrupt):
                self._end(started)
                raise
        return self.follow(job, looks.storage(self.file, order), fresh=started)

    def check(self, order: Order) -> None:
        """Look at everything that can be known now.

        Raises:
            InvalidSetting: what is wrong, all of it.
        """
        found = list(self.checks(order))
        for check in found:
            if check.problem and check.warning:
                say(str(check))
        if failed := [f"{self.path}: {c.name}: {_spelled(c)}" for c in found if c.failed]:
            raise InvalidSetting(failed)

    def _end(self, started: bool) -> None:
        """Nothing that this call started goes on to cost."""
        if started:
            say("ending what was started")
            say(self.cluster.down(say))

    def _submit(self, order: Order) -> Job:
        overrides = self.overrides(order)
        tracking = json.loads(overrides.get("tracking_uri", "null")) or order.config.tracking_uri
        job = Job(f"{order.name}-{int(time.time())}", order.name, tracking=masked(tracking or ""))
        with self._entered() as entrance, tempfile.TemporaryDirectory() as made:
            self._refuse_second(entrance)
            wheel, folder = self._wheel, Path(made)
            wheel.unpack(folder)
            for name, data in self._files(order).items():
                (folder / name).write_bytes(data)
            Spec(order.name, overrides, order.resume, order.warm_start).write(folder)
            say(f"shipping {wheel.name}: {wheel.size / 1e6:.2g} MB in {len(wheel.files)} files")
            environment = {"PYTHONUNBUFFERED": "1", **self.file.settings.environment}
            entrance.jobs.submit(job, COMMAND, folder, environment)
        return job

    def _refuse_second(self, entrance: Entrance) -> None:
        for job in entrance.jobs.all():
            if job.active:
                flags = f"--cluster {self.path}"
                raise InvalidCluster(
                    [
                        f"{self.path}: the cluster runs study '{job.study}' already; watch it by "
                        f"`{flags} --attach`, end it by `{flags} --stop`"
                    ]
                )

    def follow(self, job: Job, storage: str | None, fresh: bool = False) -> results.Ended:
        """Show a job's words until it ends, through lost connections; then fetch its results.

        Ctrl-C leaves it running. Results of a cluster that is gone come from its ``storage``.

        Raises:
            StudyError: the cluster does not answer for ten minutes.
        """
        results.forget(job.study)
        try:
            job = watch(self._entered, job.id, self._commands())
        except KeyboardInterrupt:
            detached = f"detached; the study goes on. {self._commands()}"
            say(f"\n{detached}")
            return results.Ended(job.study, DETACHED, detached)
        except Gone as error:
            say(str(error))
            return results.from_storage(storage, job.study)
        code = exit_code(job)
        if code == 2:  # nothing was run
            with in_our_words():
                self._end(fresh)
            return results.Ended(job.study, code)
        results.from_head(self._head(), job.study)
        say(self._bill())
        return results.Ended(job.study, code)

    @contextmanager
    def _entered(self) -> Iterator[Entrance]:
        with self.cluster.enter(self._head()) as entrance:
            yield entrance

    def _head(self) -> Ssh:
        if (head := self.cluster.head()) is None:
            raise Gone(f"cluster {self.file.name} does not run")
        return head

    def attach(self, name: str | None) -> results.Ended:
        """Follow the study of that name, or the newest; of a cluster that is gone, its results."""
        try:
            with in_our_words(), self._entered() as entrance:
                job = _chosen(entrance, name)
        except Gone as error:
            say(str(error))
            return results.from_storage(looks.storage(self.file), name)
        return self.follow(job, looks.storage(self.file))

    def status(self) -> list[str]:
        """What the cluster does now."""
        with in_our_words(), self._entered() as entrance:
            jobs = entrance.jobs.all()
        lines = [f"cluster {self.file.name} runs; {self._bill()}"]
        for job in jobs:
            began = time.strftime("%Y-%m-%d %H:%M", time.gmtime((job.began or 0) / 1000))
            lines.append(f"{job.status.lower():10} {job.study}  since {began} UTC  ({job.id})")
        return lines if jobs else [*lines, "no study was run on it"]

    def stop(self, name: str | None) -> str:
        """End a running study; it can be resumed."""
        with in_our_words(), self._entered() as entrance:
            running = [j for j in entrance.jobs.all() if j.active and name in (None, j.study)]
            if not running:
                raise InvalidSetting(
                    [f"{self.path}: no study runs" + (f" as '{name}'" * bool(name))]
                )
            for job in running:
                entrance.jobs.stop(job.id)
        return f"stopped {running[-1].study}; --resume --name {running[-1].study} goes on"

    def down(self, force: bool = False) -> str:
        """Take the cluster down, unless a study may run on it; the last word on it.

        Raises:
            InvalidSetting: one runs, or nobody can say, and it is not forced.
        """
        with in_our_words():
            if not force and (reason := self._doubt()):
                raise InvalidSetting([f"{self.path}: {reason}"])
            return self.cluster.down(say)

    def _doubt(self) -> str | None:
        """Why a study may run there."""
        try:
            head = self.cluster.head()
            if head is None or not at_work(head):
                return None
            with self.cluster.enter(head) as entrance:
                active = [job.study for job in entrance.jobs.all() if job.active]
        except ClusterError as error:
            return f"a study may run there: {error}; mend that, or end it unasked: --down --force"
        if active:
            return f"study '{active[-1]}' runs; --stop it first, or wait, or --down --force"
        return None

    def browse(self) -> str:
        """Keep a tunnel to the cluster's MLflow open until Ctrl-C."""
        with in_our_words(), self._entered() as entrance:
            if entrance.mlflow is None:
                raise InvalidSetting([f"MLflow: {self.file.settings.tracking_uri}"])
            say(f"MLflow: {entrance.mlflow} until Ctrl-C")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                return "closed"

    def plan(self, order: Order) -> tuple[list[str], bool]:
        """What was looked at and would be done; whether something is wrong."""
        found = list(self.checks(order))
        lines = [str(check) for check in found]
        needed = package.requirements(self.file.settings.extras)
        lines.append(f"nodes install: {' '.join(needed)}")
        lines.append(f"study '{order.name}' as a job of cluster {self.file.name}")
        if cost := self.cluster.cost():
            lines.append(f"USD an hour, by the file: {cost}")
        return lines, any(check.failed for check in found)

    def _bill(self) -> str:
        cost = self.cluster.cost()
        price = f"it costs an hour: {cost}; " if cost else ""
        return (
            f"the cluster stays up; {price}after {self.file.settings.idle_minutes:g} idle minutes "
            f"it ends by itself. {self._commands()}"
        )

    def _commands(self) -> str:
        flags = f"python -m study.run --cluster {self.path}"
        return f"{flags} --attach | --status | --stop | --down"


def _chosen(entrance: Entrance, name: str | None) -> Job:
    jobs = [job for job in entrance.jobs.all() if name in (None, job.study)]
    if not jobs:
        known = ", ".join(dict.fromkeys(job.study for job in entrance.jobs.all())) or "none"
        raise InvalidSetting([f"--name: no such study on the cluster; there: {known}"])
    return next((job for job in reversed(jobs) if job.active), jobs[-1])


def _spelled(check: Check) -> str:
    return f"{check.problem}; {check.mend}" if check.mend else check.problem

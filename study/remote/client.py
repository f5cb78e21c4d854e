"""On the user's machine: a study is shipped to a cluster, watched, fetched, ended."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.masking import printable
from clusters import package
from clusters.check import Check
from clusters.cluster import Cluster, Entrance
from clusters.derived import MLFLOW_PORT
from clusters.errors import ClusterError, InvalidCluster
from clusters.fetch import fetch
from clusters.jobs import Job
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.plugins import PluginFile
from study.remote.looks import gpu_check, storage_check
from study.remote.order import Order, in_our_words, read, say
from study.remote.spec import COMMAND, CONFIG, RESULTS, Spec
from trainables import cache

DETACHED = 130
_RECONNECT = 2.0
_LOST_SECONDS = 600.0  # a link may be cut for minutes
_CODE = re.compile(r"exit code (\d+)")


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
            self.cluster = Cluster(self.file, cache.folder() / "clusters")

    def overrides(self, order: Order) -> dict[str, str]:
        """What the cluster's file decides for a study, and what the command line said."""
        ours, plugins = self.file.settings, self._plugins(order)
        decided = {"plugins": json.dumps([file.name for file in plugins])} if plugins else {}
        if ours.storage is not None:
            decided["storage"] = json.dumps(ours.storage)
        if ours.tracking_uri is not None:
            decided["tracking_uri"] = json.dumps(ours.tracking_uri)
        else:
            decided["tracking_uri"] = json.dumps(f"http://127.0.0.1:{MLFLOW_PORT}")
        if ours.trials_per_gpu > 1 and order.config.resources.gpus == "auto":
            decided["resources.gpus"] = str(int(10_000 / ours.trials_per_gpu) / 10_000)
        return {**decided, **order.overrides}

    def _plugins(self, order: Order) -> list[PluginFile]:
        beside = self.path.parent
        more = [PluginFile.read(beside / name) for name in self.file.settings.plugins]
        return list({file.name: file for file in (*order.config.plugins, *more)}.values())

    def checks(self, order: Order | None = None) -> Iterator[Check]:
        """All that can be known before a launch, as it becomes known."""
        wheel = package.wheel()
        files = self._files(order) if order else {}
        yield package.size_check(wheel, files)
        yield storage_check(self.file)
        if order:
            yield gpu_check(self.file, self.cluster.kind, order.config)
        yield from self.cluster.checks()

    def _files(self, order: Order) -> dict[str, bytes]:
        named = {file.name: file.source.encode() for file in self._plugins(order)}
        return {CONFIG: order.path.read_bytes(), **named}

    def run(self, order: Order) -> int:
        """Ship a study, follow it, fetch what came of it; its exit code.

        Raises:
            InvalidSetting: a check failed; nothing is left running that this call started.
            StudyError: the cluster failed on the way.
        """
        self.check(order)
        with in_our_words():
            needed = package.requirements(self.file.settings.extras)
            started = self.cluster.up(needed, say)
            try:
                job_id = self._submit(order)
            except (InvalidCluster, ClusterError, KeyboardInterrupt):
                self._end(started)
                raise
        return self.follow(job_id, order.name, fresh=started)

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

    def _submit(self, order: Order) -> str:
        head = self.cluster.head()
        if head is None:
            raise ClusterError("the cluster's head does not answer")
        with self.cluster.enter(head) as entrance, tempfile.TemporaryDirectory() as made:
            self._refuse_second(entrance, order)
            wheel, folder = package.wheel(), Path(made)
            wheel.unpack(folder)
            for name, data in self._files(order).items():
                (folder / name).write_bytes(data)
            Spec(order.name, self.overrides(order), order.resume, order.warm_start).write(folder)
            job_id = f"{order.name}-{int(time.time())}"
            say(f"shipping {wheel.name}: {wheel.size / 1e6:.2g} MB in {len(wheel.files)} files")
            environment = {"PYTHONUNBUFFERED": "1", **self.file.settings.environment}
            entrance.jobs.submit(order.name, job_id, COMMAND, folder, environment)
            return job_id

    def _refuse_second(self, entrance: Entrance, order: Order) -> None:
        for job in entrance.jobs.all():
            if job.active:
                flags = f"--cluster {self.path}"
                raise InvalidCluster(
                    [
                        f"{self.path}: the cluster runs study '{job.study}' already; watch it by "
                        f"`{flags} --attach`, end it by `{flags} --stop`"
                    ]
                )

    def follow(self, job_id: str, name: str, fresh: bool = False) -> int:
        """Show a job's words until it ends, through lost connections; then fetch its results.

        Ctrl-C leaves it running.

        Raises:
            StudyError: the cluster does not answer for ten minutes.
        """
        try:
            job = self._watch(job_id)
        except KeyboardInterrupt:
            say(f"\ndetached; the study goes on. {self._commands()}")
            return DETACHED
        code = _exit_code(job)
        if code == 2:  # nothing was run
            with in_our_words():
                self._end(fresh)
            return code
        self.fetch(name)
        say(self._bill())
        return code

    def _watch(self, job_id: str) -> Job:
        seen, since = 0, time.monotonic()

        def show(text: str) -> None:
            nonlocal seen, since
            seen, since = seen + len(text), time.monotonic()
            sys.stderr.write(printable(text))
            sys.stderr.flush()

        lost = False
        while True:
            try:
                with self._entered() as entrance:
                    if entrance.mlflow:
                        say(f"MLflow: {entrance.mlflow} while this runs")
                    if lost:
                        say("connected again")
                    lost = False
                    entrance.jobs.follow(job_id, show, seen)
                    job = entrance.jobs.find(job_id)
                    if not job.active:
                        return job
            except (ClusterError, StudyError, RuntimeError, OSError) as error:
                if not lost:
                    say(f"connection lost ({error}); the study goes on, trying again")
                lost = True
                if time.monotonic() - since > _LOST_SECONDS:
                    raise StudyError(
                        f"the cluster has not answered for {_LOST_SECONDS / 60:.0f} minutes; "
                        f"{self._commands()}"
                    ) from error
            time.sleep(_RECONNECT)

    @contextmanager
    def _entered(self) -> Iterator[Entrance]:
        head = self.cluster.head()
        if head is None:
            raise StudyError(f"cluster {self.file.name} does not run, or its head does not answer")
        with self.cluster.enter(head) as entrance:
            yield entrance

    def attach(self, name: str | None) -> int:
        """Follow the study of that name, or the newest."""
        with in_our_words(), self._entered() as entrance:
            job = _chosen(entrance, name)
        return self.follow(job.id, job.study)

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

    def down(self) -> str:
        """Take the cluster down, unless a study runs on it; the last word on it."""
        with in_our_words():
            if self.cluster.head() is not None:
                try:
                    with self._entered() as entrance:
                        active = [job.study for job in entrance.jobs.all() if job.active]
                except ClusterError:
                    active = []  # Ray does not run there: nothing to lose
                if active:
                    raise InvalidSetting(
                        [f"{self.path}: study '{active[-1]}' runs; --stop it first, or wait"]
                    )
            return self.cluster.down(say)

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

    def fetch(self, name: str) -> None:
        """A study's files from the head to ``results`` here."""
        head, here = self.cluster.head(), Path("results") / name
        if head is None:
            raise StudyError(f"the head does not answer: the results of '{name}' stay there")
        with in_our_words():
            fetch(head, f"{RESULTS}/{name}/", here)
        say(f"results: {here}")
        for file in sorted((here / "report").glob("*")):
            say(f"report: {file}")

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


def _exit_code(job: Job) -> int:
    if job.status == "SUCCEEDED":
        return 0
    found = _CODE.search(job.message)
    return int(found[1]) if found else 1


def _spelled(check: Check) -> str:
    return f"{check.problem}; {check.mend}" if check.mend else check.problem

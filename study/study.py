"""A study: checked before anything starts, then run to its report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import click

from compression.registry import InvalidSetting
from study import checks, description
from study.config import StudyConfig
from study.result import StudyResult
from study.storage import Storage
from study.tracking import default_tracking_uri, ui_command


class Study:
    """A study to be run, or to be gone on with.

    Args:
        config: made by ``load_config``, ``parse_config`` or ``make_config``.
        name: of its folder in the storage; where absent the config's name and the time.
        resume: go on with the study of that name.
        address: of a running Ray cluster; this machine where absent.
        quiet: no live view.
        json: print the result as one line of JSON.
    """

    def __init__(
        self,
        config: StudyConfig,
        name: str | None = None,
        resume: bool = False,
        address: str | None = None,
        quiet: bool = False,
        json: bool = False,
    ) -> None:
        self.config, self.resume, self.address = config, resume, address
        self.quiet, self.json = quiet, json
        self.name = name or checks.new_name(config.name)
        self.root = Storage.open(config.storage)
        self.storage = self.root.sub(self.name)
        self.tracking_uri = config.tracking_uri or default_tracking_uri()

    def check(self) -> None:
        """Find out what is wrong and cheap to know.

        Raises:
            InvalidSetting: all problems at once.
        """
        config = self.config
        problems = {
            "storage": checks.storage_problem(config.storage),
            "name": checks.name_problem(config.storage, self.name, self.resume),
            "tracking_uri": checks.tracking_problem(self.tracking_uri),
        }
        if errors := [f"{config.where(key)}: {text}" for key, text in problems.items() if text]:
            raise InvalidSetting(errors)
        self._compare({"space": config.search_space().to_json(), "seed": config.seed})

    def _compare(self, asked: Mapping[str, Any]) -> None:
        """Refuse to go on with a study of another identity, as far as ``asked`` goes."""
        stored = description.stored_identity(self.storage) if self.resume else None
        if stored is None:
            return
        # As JSON on both sides: what was a tuple in memory is a list in the file.
        now = json.loads(json.dumps(asked))
        if errors := checks.identity_errors({k: stored.get(k) for k in now}, now):
            raise InvalidSetting(errors)

    def run(self) -> StudyResult:
        """Run the study to its end, or until a signal interrupts it.

        Raises:
            InvalidSetting: as :meth:`check`; or other weights or data than those of the study that
                is to be resumed.
            StorageError: another process writes the study, or its files can't be written.
        """
        from study.session import Session, Setting

        self.check()
        data = self.config.task.prepare(self.config.seed)
        self._compare(description.identity(self.config, data))
        auto = os.cpu_count() or 1
        setting = Setting(
            self.config,
            data,
            self.name,
            self.root,
            self.tracking_uri,
            auto if self.config.concurrency == "auto" else self.config.concurrency,
            self.address,
            self.quiet,
        )
        result = Session(setting).run()
        self._print(result)
        return result

    def _print(self, result: StudyResult) -> None:
        """The front, where the report is, how to open MLflow."""
        if self.json:
            click.echo(json.dumps(_summary(result, self.tracking_uri)))
            return
        if result.front:
            click.echo(_table(result))
        for kind, path in result.report.items():
            click.echo(f"{kind}: {path}")
        for remark in result.remarks:
            click.echo(remark)
        click.echo(f"study: {result.location}")
        click.echo(f"MLflow: {ui_command(self.tracking_uri)}")


def _table(result: StudyResult) -> str:
    frame = result.front_frame.sort_values("ratio")
    metrics = [c for c in frame if c.startswith("val_") or c == "test_accuracy"]
    columns = ["ratio", "file_bytes", *metrics, "method", "init", "adapter", "rank", "status"]
    return str(
        frame[[c for c in columns if c in frame]].to_string(index=False, float_format="%.4g")
    )


def _summary(result: StudyResult, tracking_uri: str) -> dict[str, Any]:
    frame = result.front_frame if result.front else None
    return {
        "name": result.name,
        "location": result.location,
        "exit_code": result.exit_code,
        "trials": len(result.records),
        "front": [] if frame is None else json.loads(frame.to_json(orient="records")),
        "report": dict(result.report),
        "tracking_uri": tracking_uri,
        "remarks": list(result.remarks),
    }

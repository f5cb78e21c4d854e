"""On a cluster's head, as a Ray job: ``python -m study.remote.job``, in the folder of the job."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.answering import fail
from analysis.masking import printable
from compression.registry import InvalidSetting
from study.checks import tracking_problem
from study.config import StudyConfig, load_config
from study.errors import StorageError, StudyError
from study.loop.placement import Node, nodes_of
from study.remote import nodes
from study.remote.results import copy
from study.remote.spec import ANSWER, CONFIG, RESULTS, Spec
from study.store.patience import to_stderr
from study.store.storage import Storage
from study.study import Study
from study.terminal.show import as_data, front_text

TRACKING_SECONDS = 60.0


def main(folder: Path) -> int:
    """Run the study of a job's folder; its exit code."""
    from clusters.connection import connected

    spec = Spec.read(folder)
    _here(spec.name).discard(ANSWER)  # of an earlier run
    config = load_config(folder / CONFIG, spec.overrides)
    launcher = nodes.launched()
    with connected("auto", 0, threads=config.resources.cpus):
        promised = _ready(config, launcher)
        study = Study(
            config, spec.name, spec.resume, "auto", warm_start=spec.warm_start, promised=promised
        )
        study.storage.discard(ANSWER)
        try:
            result = study.run()
            _keep(as_data(result), study.storage)
        finally:  # of a study that failed on its way, what there is
            _put_down(study.storage, spec.name)
    print(printable(front_text(result)), flush=True)
    return result.exit_code


def _ready(config: StudyConfig, launcher: Mapping[str, Any]) -> tuple[Node, ...]:
    """Machines are there and see the storage; those that may yet come.

    Raises:
        InvalidSetting: they do not.
    """
    import ray

    def alive() -> int:
        found = ray.nodes()  # type: ignore[no-untyped-call]
        return sum(node["Alive"] for node in found)

    nodes.wait(nodes.due(launcher), alive, to_stderr, nodes.patience())
    coming = nodes.promised(launcher, alive() - 1)
    if coming and not nodes_of(ray.nodes()):  # type: ignore[no-untyped-call]
        nodes.await_first(coming, config.resources, alive, to_stderr)
        coming = nodes.promised(launcher, alive() - 1)
    _await_tracking(config.tracking_uri)
    if blind := list(nodes.blind(Storage.open(config.storage))):
        raise InvalidSetting(
            [
                f"{config.where('storage')}: not every machine reaches {config.storage}; {text}"
                for text in blind
            ]
        )
    return tuple(coming)


def _await_tracking(uri: str | None) -> None:
    """MLflow's server starts with the head; what is still wrong after that the study says."""
    end = time.monotonic() + TRACKING_SECONDS
    while uri and tracking_problem(uri) and time.monotonic() < end:
        time.sleep(1)


def _here(name: str) -> Storage:
    """A study's folder on the head's disk."""
    return Storage.open(str(Path(RESULTS).expanduser())).sub(name)


def _keep(answer: dict[str, Any], storage: Storage) -> None:
    """What ``--json`` says, beside the study's files; a copy of these has it, too."""
    try:
        storage.write_bytes(ANSWER, json.dumps(answer).encode())
    except StorageError as error:  # as below
        to_stderr(f"no {ANSWER}: {error}")


def _put_down(storage: Storage, name: str) -> None:
    """A copy of the study's folder on the head's disk, for the user's machine to take."""
    there = _here(name)
    if storage.is_local and storage.root == there.root:
        return
    try:
        copy(storage, there)
    except StorageError as error:  # it must not hide how the study ended
        to_stderr(f"the results stay in {storage}: {error}")


if __name__ == "__main__":
    try:
        sys.exit(main(Path.cwd()))
    except InvalidSetting as error:
        fail(2, error.errors)
    except (StudyError, ConnectionError) as error:
        fail(1, (str(error),))

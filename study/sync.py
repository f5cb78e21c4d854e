"""``python -m study.sync STUDY``: bring MLflow up to a study's log, without running the study.

What MLflow lacks is written, from a few metrics to all runs of a study whose MLflow store was lost;
what it has is left as it is. Needs no torch.
"""

from __future__ import annotations

import os

import click

from analysis.answering import fail
from analysis.load import DEFAULT_STORAGE
from analysis.masking import HIDDEN
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import Finished, find, read
from study.store import lease
from study.tracking import (
    Summary,
    TrackingError,
    check_reachable,
    default_tracking_uri,
    ending,
    environment,
    page_address,
    params_of_study,
    ui_command,
)

PATIENCE = 30.0
"""Seconds of nothing but failures until the store is given up."""


def sync(finished: Finished, uri: str, patience: float = PATIENCE) -> Summary:
    """Write what the MLflow store lacks of a study that nobody runs now.

    Raises:
        LeaseHeld: somebody does; its own tracker keeps MLflow up to date.
    """
    os.environ.update(environment())
    from study.tracking.worker import Worker  # with MLflow, which reads the environment

    held = lease.take(finished.storage)
    try:
        settings = {
            "storage": finished.storage.uri,
            "name": finished.name,
            "uri": uri,
            "params": params_of_study(finished.info.get("config", {})),
            "owner": lease.process_name(),
        }
        done = Worker(settings).finish(
            {
                "status": ending(finished.state),
                "front": [member.trial_id for member in finished.members()],
                "patience": patience,
            }
        )
        return Summary(**done, study=str(finished.storage))
    finally:
        held.release()


def _own(finished: Finished) -> str | None:
    """The address that the study was run with, as far as it was stored.

    Raises:
        InvalidSetting: what was stored is without its secrets.
    """
    uri: str | None = finished.info.get("config", {}).get("tracking_uri")
    if uri is not None and HIDDEN in uri:
        text = f"--tracking-uri: the study has {uri}, its secrets are stored nowhere: give it whole"
        raise InvalidSetting([text])
    return uri


@click.command(context_settings={"max_content_width": 100})
@click.argument("study")
@click.option("--tracking-uri", metavar="URI", help="MLflow's store; by default the study's own.")
@click.option("--storage", metavar="URI", default=DEFAULT_STORAGE, help="That holds the studies.")
def main(study: str, tracking_uri: str | None, storage: str) -> None:
    """Bring MLflow up to the log of STUDY: a name in the storage, or a folder.

    Exit codes: 0 it is, 1 the store failed or somebody runs the study, 2 the input is wrong.
    """
    try:
        finished = read(find(study, storage))
        uri = tracking_uri or _own(finished) or default_tracking_uri()
        check_reachable(uri)
        summary = sync(finished, uri)
    except InvalidSetting as error:
        fail(2, error.errors)
    except (StudyError, TrackingError) as error:
        fail(1, [str(error)])
    if summary.error:
        fail(1, [str(summary)])
    click.echo(f"{summary}\nMLflow: {ui_command(uri)}\n{page_address(uri, summary.page)}".rstrip())


if __name__ == "__main__":
    main()

"""``python -m study.doctor --cluster FILE``: what must be there before a cluster starts, and isn't.

Changes nothing, starts nothing, costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.answering import Answering, answer, fail

if TYPE_CHECKING:
    from clusters.check import Check
    from study.remote.client import Remote
    from study.remote.order import Order


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.option(
    "--cluster", type=click.Path(path_type=Path), required=True, help="The cluster's file."
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="A study's file, looked at as well."
)
@click.option("--json", "as_json", is_flag=True, help="The checks as one line of JSON.")
def main(cluster: Path, config: Path | None, as_json: bool) -> None:
    """Look at a cluster's file, account and hosts before anything starts.

    A line for each check: ok, warn or FAIL, and how it is mended. Within 20 seconds. Exit codes: 0
    nothing stops a launch, 2 something does.
    """
    from compression.registry import InvalidSetting
    from study.remote.client import Remote

    try:
        remote = Remote(cluster)
        order = _order(config) if config else None
    except InvalidSetting as error:
        fail(2, error.errors)
    found = []
    for check in checks(remote, order):
        found.append(check)
        if not as_json:
            click.echo(str(check))
    failed = any(check.failed for check in found)
    if as_json:
        told = [{**asdict(check), "failed": check.failed} for check in found]
        answer({"ok": not failed, "checks": told})
    sys.exit(2 if failed else 0)


def checks(remote: Remote, order: Order | None) -> Iterator[Check]:
    """The file, this machine, what would be shipped, then what the kind of cluster needs."""
    from clusters.check import Check

    kind = remote.file.provider["type"]
    yield Check("file", f"{remote.path}: cluster {remote.file.name}, {kind}")
    yield from remote.checks(order)


def _order(path: Path) -> Order:
    """The study as the doctor takes it.

    Raises:
        InvalidSetting: its file is wrong.
    """
    from study.config import load_config
    from study.remote.order import Order

    config = load_config(path, {})
    return Order(config, path, config.name, {}, resume=False, warm_start=None)


if __name__ == "__main__":
    main()

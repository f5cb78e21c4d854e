"""``python -m study.run``: read a config, run the study. Imports what is heavy only on use."""

import sys

if not (3, 11) <= sys.version_info[:2] < (3, 14):
    sys.exit(
        f"Paretune needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}. From 3.14 on "
        "the standard library has a package named `compression`, which gzip imports and which this "
        "project's own hides."
    )

import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import click  # noqa: E402

from analysis.answering import Answering, answer, fail  # noqa: E402
from study.kinds import KINDS, registry  # noqa: E402

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.study import Study

DEFAULT = Path(__file__).parent / "configs" / "digits.yaml"
PLACES = {"target_size": "space.allocate.max_bytes"}  # of options that are no keys of their own


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.option("--config", type=click.Path(path_type=Path), help="YAML file; without it: digits.")
@click.option("--name", help="Of the study's folder; without it: the config's name and the time.")
@click.option("--trials", metavar="N", help="Trials to search with.")
@click.option("--time-budget", metavar="TIME", help="Such as 90s, 30m or 2h.")
@click.option("--target-size", metavar="BYTES", help="Of the file, such as 1.5MB: by layer.")
@click.option("--seed", metavar="N", help="Of data split, trials and search.")
@click.option("--storage", metavar="URI", help="Folder or URI that holds the studies.")
@click.option("--tracking-uri", metavar="URI", help="MLflow; without it: what `mlflow ui` opens.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any config key.")
@click.option("--resume", is_flag=True, help="Go on with --name, or with the newest study.")
@click.option("--warm-start", metavar="STUDY", help="Begin with what an earlier study knows.")
@click.option("--address", help="Of a running Ray cluster; without it: this machine.")
@click.option("--cluster", type=click.Path(path_type=Path), metavar="FILE", help="Run it there.")
@click.option("--attach", is_flag=True, help="Watch the study that runs on --cluster.")
@click.option("--status", is_flag=True, help="What --cluster does now.")
@click.option("--stop", is_flag=True, help="End the study on --cluster; it can be resumed.")
@click.option("--down", is_flag=True, help="Take --cluster down.")
@click.option("--force", is_flag=True, help="With --down: even if a study may run there.")
@click.option("--mlflow", is_flag=True, help="Open a tunnel to the MLflow of --cluster.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, run nothing.")
@click.option("--list", "kind", type=click.Choice(list(KINDS)), help="Print the names of a kind.")
@click.option("--quiet", is_flag=True, help="No live view.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, errors too.")
def main(
    config: Path | None,
    name: str | None,
    settings: tuple[str, ...],
    resume: bool,
    warm_start: str | None,
    address: str | None,
    cluster: Path | None,
    dry_run: bool,
    kind: str | None,
    quiet: bool,
    as_json: bool,
    **others: str | bool | None,
) -> None:
    """Find the smallest model at the accuracy you can accept.

    Compresses a pretrained model in many ways, recovers each with a small adapter, and draws the
    Pareto front of accuracy against the bytes that would ship. Without options: the digits study.

    Exit codes: 0 done, 1 the study failed, 2 the input is wrong (one line for each error).
    """
    from compression.registry import InvalidSetting
    from study.errors import StudyError

    try:
        if kind:
            return _list(kind, config, as_json)
        flags = {flag for flag, given in others.items() if given is True}
        options = {k: v for k, v in others.items() if not isinstance(v, bool)}
        given, wrong = _overrides(settings, options)
        path = config or DEFAULT
        if cluster or flags:
            from study.remote.commands import Asked, serve

            asked = Asked(cluster, flags, name, resume, address, warm_start, dry_run, as_json)
            sys.exit(serve(asked, lambda: (_read(path, given, wrong, {}), path, given)))
        read = _read(path, given, wrong, _probes(name, resume))
        from study.study import Study

        study = Study(read, name or _name(read, resume), resume, address, quiet, warm_start)
        sys.exit(_plan(study) if dry_run else _run(study))
    except InvalidSetting as error:
        fail(2, error.errors)
    except (StudyError, ConnectionError) as error:
        fail(1, (str(error),))
    except KeyboardInterrupt:
        fail(130, ("ended at once by a second signal; --resume goes on",))


def _plan(study: "Study") -> int:
    from study.plan import plan_lines

    study.check()
    plan = plan_lines(study.config)
    answer({"plan": plan}, "\n".join(plan))
    return 0


def _run(study: "Study") -> int:
    from analysis.masking import printable
    from study.terminal.show import as_data, as_text

    study.check()
    result = study.run()
    answer(as_data(result), printable(as_text(result)))
    return result.exit_code


def _overrides(
    settings: tuple[str, ...], options: dict[str, str | None]
) -> tuple[dict[str, str], list[str]]:
    """What the command line says by config key, and what is wrong with it."""
    # Quoted, so that a folder named 7 stays a word.
    words = ("storage", "tracking_uri")
    given = {
        PLACES.get(k, k): json.dumps(v) if k in words else v
        for k, v in options.items()
        if v is not None
    }
    wrong = [
        f"command line: --set: expected KEY=VALUE, got '{s}'" for s in settings if "=" not in s
    ]
    return {**dict(s.split("=", 1) for s in settings if "=" in s), **given}, wrong


def _read(
    path: Path, overrides: dict[str, str], wrong: list[str], probes: dict[str, Any]
) -> "StudyConfig":
    """The config; with errors in it, everything else that is wrong is looked for as well."""
    from compression.registry import InvalidSetting
    from study.config import load_config

    try:
        config = load_config(path, overrides)
    except InvalidSetting:
        try:
            config = load_config(path, overrides, probes)
        except InvalidSetting as error:
            wrong += error.errors
    if wrong:
        raise InvalidSetting(wrong)
    return config


def _probes(name: str | None, resume: bool) -> dict[str, Any]:
    from study.checks import name_problem, storage_problem, tracking_problem

    def storage(uri: str) -> str | None:
        return storage_problem(uri) or (name_problem(uri, name, resume) if name else None)

    # A study that goes on does not need MLflow to answer.
    return {"storage": storage} | ({} if resume else {"tracking_uri": tracking_problem})


def _name(config: "StudyConfig", resume: bool) -> str:
    from compression.registry import InvalidSetting
    from study.checks import new_name, newest_name

    if not resume:
        return new_name(config.name)
    if name := newest_name(config.storage, config.name):
        return name
    raise InvalidSetting(
        [f"resume: no study of '{config.name}' in {config.storage}; give its --name"]
    )


def _list(kind: str, config: Path | None, as_json: bool) -> None:
    from study.plugins import load_entry_points

    load_entry_points()
    if config:
        _read(config, {}, [], _probes(None, False))
    plugins = registry(kind)
    if as_json:
        return answer({kind: {name: plugins.help(name) for name in plugins}})
    width = max(map(len, plugins))
    for name in plugins:
        click.echo(f"{name:{width}}  {plugins.help(name)}")


if __name__ == "__main__":
    main()

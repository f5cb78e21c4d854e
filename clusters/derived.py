"""The file that ``ray up`` really gets: the user's, with what our command adds to each node."""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from clusters.settings import Settings

THERE = "~/.paretune"  # on the nodes
TOKEN = "~/.ray/auth_token"  # where Ray looks for it
MLFLOW_PORT, JOBS_PORT, RAY_PORT = 5000, 8265, 6379
GUARD_MINUTES = 30.0  # to install packages takes 5 to 15
# Left out where the file has commands of its own.
HEAD_START = (
    "ray stop",
    f"ulimit -n 65536; ray start --head --port={RAY_PORT} --object-manager-port=8076"
    " --autoscaling-config=~/ray_bootstrap_config.yaml",
)
WORKER_START = (
    "ray stop",
    f"ulimit -n 65536; ray start --address=$RAY_HEAD_IP:{RAY_PORT} --object-manager-port=8076",
)
# A link that is cut for minutes is not a node that is lost. Left to itself Ray 2.60 gives a node up
# a minute after a cut of 30 s, with all that ran there. A check that hangs counts 62 s here, so
# that a node has 5 minutes; one that is refused, its Ray having died, counts 2 s. Calls under way
# wait for their connection as long, where Ray would fail them after 20 s (servers) or 120 s.
PATIENCE = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_grpc_keepalive_timeout_ms": "600000",
    "RAY_grpc_client_keepalive_timeout_ms": "600000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    # Until it is given up a node counts as one that has a copy of what another asks for. Left to
    # itself Ray asks again after 10 s, then 20, 40, ...; a worker that starts would wait as long.
    "RAY_object_manager_pull_timeout_ms": "1000",
}
# What Ray listens on is bound to all addresses of a node, but asks for the token; its metrics do
# not. These turn them off; the port -1 is none, and the monitor and the dashboard go on without.
NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    **PATIENCE,
    **NO_METRICS,
}


def derive(
    file: ClusterFile, kind: Kind, token: Path, requirements: Sequence[str], folder: Path
) -> dict[str, Any]:
    """The launcher's configuration; files that it mounts are written to ``folder``."""
    exports = {**ENVIRONMENT, **kind.environment()}
    data = copy.deepcopy(file.data)
    packages = "\n".join(requirements) + "\n"
    ours = {name: Path(__file__).with_name(name).read_text() for name in ("keeper.py", "guard.py")}
    files = {"requirements.txt": packages, **ours, **kind.files()}
    for name, text in files.items():
        (folder / name).write_text(text)
    mounts = {f"{THERE}/{name}": str(folder / name) for name in files}
    data["file_mounts"] = {**(data.get("file_mounts") or {}), **mounts, TOKEN: str(token)}
    data["setup_commands"] = [
        *_guarded(kind.guard_command(file)),
        *(data.get("setup_commands") or ()),
        *_setup(file.settings.python),
    ]
    head = [*(data.get("head_start_ray_commands") or HEAD_START)]
    worker = [*(data.get("worker_start_ray_commands") or WORKER_START)]
    data["head_start_ray_commands"] = [
        *(_started(command, exports) for command in head),
        keeper_command(file, file.settings.idle_command or kind.idle_command(file)),
    ]
    data["worker_start_ray_commands"] = [_started(command, exports) for command in worker]
    return data


def digest(data: Mapping[str, Any], folder: Path) -> str:
    """Of what a node was set up by, wherever from: another one asks for another ``ray up``."""
    mounts = data["file_mounts"]
    ours = {there: Path(here) for there, here in mounts.items() if Path(here).parent == folder}
    texts = {there: here.read_text() for there, here in ours.items() if there != TOKEN}
    theirs = {there: here for there, here in mounts.items() if there not in ours}
    told = [{**data, "file_mounts": theirs}, texts]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _guarded(command: str | None) -> list[str]:
    """Before all else: a machine that never gets as far as to run Ray ends, too."""
    if command is None:
        return []
    words = shlex.join(["--minutes", f"{GUARD_MINUTES:g}", "--command", command])
    return [f"python3 {THERE}/guard.py {words}"]


def _setup(python: str) -> list[str]:
    """After the user's own commands: they may bring the Python that is to be there."""
    # Ray's launcher prints commands as well: the marks are spelled so that only what they say has
    # "paretune:" in it.
    major, minor = python.split(".")
    wrong = f"'pare' 'tune: this node has Python %d.%d, the study needs {python}'"
    code = (
        "import sys; v = sys.version_info[:2]; "
        f"sys.exit(None if v == ({major}, {minor}) else {wrong} % v)"
    )
    install = "python -m pip install --quiet --disable-pip-version-check --requirement"
    failed = "tune: this node could not install the packages of the study; see above"
    return [
        f"chmod 600 {TOKEN}",
        f"python -c {shlex.quote(code)}",
        f"{install} {THERE}/requirements.txt || (echo pare{shlex.quote(failed)} >&2; false)",
    ]


def _started(command: str, environment: Mapping[str, str]) -> str:
    """A start command with our environment; a head's servers listen on its loopback."""
    if "ray start" not in command:
        return command
    exports = " ".join(f"{name}={value}" for name, value in environment.items())
    if "--head" in command and "--dashboard-host" not in command:
        command += " --dashboard-host=127.0.0.1"
    return f"export {exports}; {command}"


END_KEEPER = f"python {THERE}/keeper.py --end"  # on the head


def keeper_command(file: ClusterFile, idle_command: str) -> str:
    """Starts the keeper so that it outlives the shell."""
    ours = file.settings
    words = [
        *("--idle-seconds", str(60 * ours.idle_minutes)),
        *("--command", idle_command),
    ]
    if ours.tracking_uri is None:
        words += ["--mlflow", str(MLFLOW_PORT)]
    quoted = shlex.join(words)
    if ours.tracking_uri is None:  # $HOME is the node's to fill in
        quoted += ' --store "sqlite:///$HOME/.paretune/mlflow.db" --artifacts '
        place = _artifacts(ours)
        quoted += shlex.quote(place) if place else '"$HOME/.paretune/artifacts"'
    return (
        f"mkdir -p {THERE}; nohup setsid python {THERE}/keeper.py {quoted}"
        f" >> {THERE}/keeper.log 2>&1 < /dev/null &"
    )


def _artifacts(ours: Settings) -> str | None:
    """Beside the studies on an object store, where they outlive the head; as MLflow spells it."""
    storage = ours.storage or ""
    if ours.artifacts or "://" not in storage or "?" in storage or "@" in storage:
        return ours.artifacts
    return f"{storage.rstrip('/')}/mlflow"

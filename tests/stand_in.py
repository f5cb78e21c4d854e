"""``ssh`` and ``rsync`` for hosts that are folders: what a host is told to run runs there.

A host has a HOME of its own, and this machine's shell and tools but for those that would cost:
``python``, ``pip``, ``ray``, ``pgrep``, ``sudo`` and ``crontab`` are a script each, which writes
down what it was called with. A tunnel leads to a job server that asks for the host's token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

UBUNTU = "case $- in *i*) ;; *) return;; esac\n"  # ~/.bashrc there ends early for a plain ssh
_SSH = r"""#!/bin/bash
ports=()
while [ $# -gt 0 ]; do
  case $1 in
    -L*) ports+=("${1#-L}") ;;
    -[oi]) shift ;;
    -*) ;;
    *) break ;;
  esac
  shift
done
host=${1#*@}; shift
[ -e @/silent ] && { echo "ssh: connect to $host port 22: Connection timed out" >&2; exit 255; }
home=@/hosts/$host
[ -d "$home" ] || cp -r @/fresh "$home"
[ ${#ports[@]} -gt 0 ] && exec %PYTHON% @/jobs.py "$home" "${ports[@]}"
cd "$home" && exec env -i HOME="$home" PATH=@/tools:/usr/bin:/bin bash -c "$*"
"""
_RSYNC = r"""#!/bin/bash
there=${!#} here=${@: -2:1}
host=${there%%:*}; host=${host#*@}; path=${there#*:}
[ -e @/silent ] && { echo "rsync: connection timed out" >&2; exit 255; }
case $path in "~/"*) cp -p "$here" "@/hosts/$host/${path#\~/}" ;; *) exit 11 ;; esac
"""
_TOOLS = {
    # What can be known of a node's Python is what this one says; it installs nothing.
    "python": """case "$1" in -c) exec %PYTHON% "$@" ;; esac
case "$*" in *requirements.txt*)
  touch @/installing
  while [ -e @/slow ]; do sleep 0.1; done
  if [ -e @/no-packages ]; then echo "ERROR: No matching distribution found"; exit 1; fi ;;
esac""",
    "python3": "",
    "pip": "",
    "ray": """case "$1" in start) touch ~/raylet ;; stop) rm -f ~/raylet ;; esac""",
    "pgrep": "[ -e ~/raylet ] && echo 1",
    "sudo": "",
    "crontab": "",
}
_JOBS = '''"""Ray's job server, as a client sees it."""
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

home = Path(sys.argv[1])


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        token = (home / ".ray" / "auth_token").read_text().strip()
        if self.headers.get("Authorization") != f"Bearer {token}":
            return self.say(401, "who are you?")
        if self.path == "/api/version":
            return self.say(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "none"})
        jobs = home / "jobs.json"
        self.say(200, json.loads(jobs.read_text()) if jobs.exists() else [])

    def say(self, code, what):
        body = json.dumps(what).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


for pair in sys.argv[2:]:
    server = ThreadingHTTPServer(("127.0.0.1", int(pair.split(":")[1])), Answer)
    threading.Thread(target=server.serve_forever).start()
'''


class Hosts:
    """The hosts of a folder; ``path`` is to be first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "bin"
        for each in ("hosts", "fresh/.ray", "tools", "bin"):
            (folder / each).mkdir(parents=True)
        (folder / "fresh" / ".bashrc").write_text(UBUNTU)
        profile = f'export PATH="{folder}/tools:$PATH"\n. ~/.bashrc\n'
        (folder / "fresh" / ".bash_profile").write_text(profile)
        (folder / "jobs.py").write_text(_JOBS)
        self._script(self.path / "ssh", _SSH)
        self._script(self.path / "rsync", _RSYNC)
        for name, body in _TOOLS.items():
            called = f"#!/bin/bash\nprintf '%s\\n' \"{name} $*\" >> @/called\n"
            self._script(folder / "tools" / name, called + body + "\n")

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text.replace("@/", f"{self.folder}/").replace("%PYTHON%", sys.executable))
        path.chmod(0o755)

    def mark(self, name: str, there: bool = True) -> None:
        """``silent``: no host answers; ``no-packages``: none installs; ``slow``: it takes long."""
        self.installing.unlink(missing_ok=True)
        if there:
            (self.folder / name).touch()
        else:
            (self.folder / name).unlink()

    @property
    def installing(self) -> Path:
        """There once a host began to, since the last mark."""
        return self.folder / "installing"

    def homes(self) -> list[Path]:
        """Of all that were ever entered."""
        return sorted((self.folder / "hosts").iterdir())

    def called(self) -> list[str]:
        """What tools of theirs were called with, in order."""
        path = self.folder / "called"
        return path.read_text().splitlines() if path.exists() else []


def running(home: Path, study: str) -> None:
    """Have the host's job server name a study that runs."""
    job = {
        "type": "SUBMISSION",
        "submission_id": f"{study}-1",
        "status": "RUNNING",
        "entrypoint": "python -m study.remote.job",
        "metadata": {"paretune": study},
    }
    (home / "jobs.json").write_text(json.dumps([job]))

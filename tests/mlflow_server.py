"""A real MLflow server that can be killed and stopped, and a proxy before it that misbehaves."""

from __future__ import annotations

import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class MlflowServer:
    """``mlflow server`` over a SQLite file, on loopback."""

    def __init__(self, folder) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120.0) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", f"{self.folder}/server"]
        with open(f"{self.folder}/server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        until = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"the server does not start: see {self.folder}/server.log")
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def signal(self, number: int) -> None:
        """To the server and its workers, which are a group of their own."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


class Proxy:
    """Forwards to the server, as ``mode`` says.

    ``pass``; a status such as ``503``; ``empty``: 200 without a word; ``closed``: no answer;
    ``lost``: forwarded, no answer; ``slow``: answered late.
    """

    def __init__(self, port: int) -> None:
        proxy, self.mode, self.requests = self, "pass", 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                proxy.requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.mode
                if mode in ("pass", "lost", "slow"):
                    status, headers, answer = self.forward(body)
                else:
                    status, headers, answer = int(mode) if mode.isdigit() else 200, {}, b""
                if mode == "slow":
                    time.sleep(0.7)
                if mode in ("lost", "closed"):
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def forward(self, body):
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                names = ("Content-Type", "Accept", "Authorization")
                headers = {k: self.headers[k] for k in names if k in self.headers}
                try:
                    upstream.request(self.command, self.path, body, headers)
                    found = upstream.getresponse()
                    kind = {"Content-Type": found.getheader("Content-Type", "text/plain")}
                    return found.status, kind, found.read()
                except OSError:
                    return 502, {}, b""
                finally:
                    upstream.close()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

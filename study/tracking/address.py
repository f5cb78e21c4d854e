"""Where MLflow's store is, and whether it answers. MLflow itself is not imported here."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from analysis.masking import masked
from study.deadlines import within

_SQLITE = "sqlite:///"
_UI_PORT = 5000  # unless it is told another one
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(OSError):
    """The MLflow store cannot be used; the message says which and why."""

    def __init__(self, text: str) -> None:
        super().__init__(masked(text))


def default_tracking_uri() -> str:
    """The store that plain ``mlflow ui`` opens in this folder, or what the environment says."""
    here = f"{_SQLITE}{os.path.abspath('mlflow.db')}"
    return os.environ.get("MLFLOW_TRACKING_URI") or here


def ui_command(uri: str) -> str:
    """What a person types (or opens) to see the runs."""
    if web(uri):
        return masked(uri)
    at_default = uri == f"{_SQLITE}{os.path.abspath('mlflow.db')}"
    # A folder with old experiments makes plain `mlflow ui` open that folder instead.
    if at_default and not _old_experiments() and "MLFLOW_BACKEND_STORE_URI" not in os.environ:
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri {masked(uri)}"


def page_address(uri: str, page: str) -> str:
    """Where a browser finds a page of MLflow's, by its part of the address; '' if there is none.

    Of a store that is no server that is where :func:`ui_command` serves it. Names and passwords
    of ``uri`` are left out.
    """
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    at = f"{parts.scheme}://{host}{parts.path}" if web(uri) else f"http://127.0.0.1:{_UI_PORT}"
    return f"{at.rstrip('/')}/{page}" if page else ""


def check_reachable(uri: str, timeout: float = 10.0) -> None:
    """Find out within ``timeout`` seconds whether the store can be used.

    Raises:
        TrackingError: it cannot; says why.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif web(uri):
        _within(timeout, uri, lambda: _check_server(uri, timeout))
    elif scheme in _PORTS:
        _within(timeout, uri, lambda: _check_port(uri, timeout))
    elif scheme in ("", "file"):
        raise TrackingError(
            f"tracking '{uri}': MLflow no longer writes folders; use sqlite:///PATH.db or a server"
        )
    elif scheme != "databricks":
        raise TrackingError(
            f"tracking '{uri}': expected sqlite:///PATH.db, http(s)://HOST:PORT or a database URI"
        )


def web(uri: str) -> bool:
    """Whether the store is a server, whose pages a browser can open."""
    return uri.startswith(("http://", "https://"))


def _old_experiments() -> bool:
    try:
        with os.scandir("mlruns") as entries:
            return any(os.path.exists(os.path.join(e.path, "meta.yaml")) for e in entries)
    except OSError:
        return False


def _check_sqlite(uri: str) -> None:
    path = uri.partition(":///")[2].partition("?")[0]
    folder = os.path.dirname(os.path.abspath(path))
    if not path:
        raise TrackingError(f"tracking '{uri}': expected sqlite:///PATH.db")
    if not os.path.isdir(folder):
        raise TrackingError(f"tracking '{uri}': there is no folder {folder}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise TrackingError(f"tracking '{uri}': it cannot be written")
    if os.path.exists(path):
        try:
            with open(path, "rb") as file:
                start = file.read(16)
        except OSError as error:
            raise TrackingError(f"tracking '{uri}': {error.strerror}") from error
        if start not in (b"", b"SQLite format 3\0"):
            raise TrackingError(f"tracking '{uri}': the file is no SQLite database")


def _check_server(uri: str, timeout: float) -> None:
    request = _request(f"{uri.rstrip('/')}/health")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # a server behind a login is one
            kind = "a server in trouble" if error.code >= 500 else "no MLflow server"
            raise TrackingError(
                f"tracking '{uri}': {kind}: {request.full_url} answers with error {error.code}"
            ) from error


def _request(uri: str) -> urllib.request.Request:
    """With the name and the password of the address where they belong, as MLflow's client does."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        login = b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    return request


def _check_port(uri: str, timeout: float) -> None:
    parts = urlsplit(uri)
    port = parts.port or _PORTS[parts.scheme.partition("+")[0]]
    socket.create_connection((parts.hostname or "localhost", port), timeout).close()


def _within(timeout: float, uri: str, check: Callable[[], None]) -> None:
    """Run ``check`` for at most ``timeout`` seconds."""
    try:
        within(timeout, check)
    except TrackingError:
        raise
    except TimeoutError as error:
        raise TrackingError(f"tracking '{uri}': no answer within {timeout:g} s") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(f"tracking '{uri}': no answer: {reason}") from error

"""Checks of the world before a study starts."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import pytest

from study import checks
from study.tracking import TrackingError, check_reachable


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_ray_finds_these_itself(address):
    assert checks.address_problem(address) is None


def test_an_address_that_answers_is_accepted():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        assert checks.address_problem(f"{host}:{port}") is None
        assert checks.address_problem(f"ray://{host}:{port}") is None


def test_an_address_where_nothing_answers_is_refused_quickly():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    problem = checks.address_problem(f"127.0.0.1:{port}")
    assert problem
    assert "no Ray cluster answers" in problem
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["nonsense", "ray://host", "host:port"])
def test_a_malformed_address_is_refused(address):
    assert "expected auto, HOST:PORT" in (checks.address_problem(address) or "")


def test_a_web_server_that_is_no_mlflow_is_refused():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(TrackingError):
            check_reachable(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_the_storage_check_leaves_nothing_behind(tmp_path):
    assert checks.storage_problem(str(tmp_path / "new")) is None
    assert list(tmp_path.iterdir()) == []

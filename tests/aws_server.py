"""AWS as other processes reach it: moto's server, what moto lacks, and bad days."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

Reply = tuple[str, str]  # status line, body
_EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"
EXPIRED = ("ExpiredToken", "The security token included in the request is expired")
CHANGES = ("RunInstances", "TerminateInstances", "StopInstances")


class Cloud:
    """A WSGI application: moto's, before which requests are written down and some answered."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.asked: list[str] = []
        self._refused: dict[str, Reply] = {}  # by action; "" is each
        self.slow: dict[str, float] = {}  # done at once, answered after so many seconds
        self.url = ""

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """One request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        form = parse_qs(body.decode("latin-1"))
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        action = action or form.get("Action", [environ["REQUEST_METHOD"]])[0]
        self.asked.append(action)
        if environ["PATH_INFO"].startswith("/moto-api"):
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        refused = self._refused.get(action) or self._refused.get("")
        if reply := refused or _lacking(action, form):
            return _say(start_response, reply)
        answer = list(self._moto(environ, start_response))
        time.sleep(self.slow.get(action, 0.0))
        return answer

    def changes(self) -> list[str]:
        """What was done to instances, in order."""
        return [action for action in self.asked if action in CHANGES]

    @contextmanager
    def refusing(self, error: tuple[str, str], action: str = "") -> Iterator[None]:
        """Every request, or those for an action, get an error: its code and AWS's words."""
        code, words = error
        inner = f"<Errors><Error><Code>{code}</Code><Message>{words}</Message></Error></Errors>"
        body = f"<Response>{inner}<RequestID>1</RequestID></Response>"
        self._refused[action] = ("403 Forbidden", body)
        try:
            yield
        finally:
            del self._refused[action]


def _say(start_response: Callable[..., Any], reply: Reply) -> list[bytes]:
    status, body = reply
    kind = "application/x-amz-json-1.1" if body.startswith("{") else "text/xml"
    start_response(status, [("Content-Type", kind)])
    return [body.encode()]


def _lacking(action: str, form: dict[str, list[str]]) -> Reply | None:
    """Answers that moto has none of, or, to describe every instance type, one after 10 s."""
    if action == "GetServiceQuota":
        return "200 OK", json.dumps({"Quota": {"Value": 64.0}})
    if action == "SimulatePrincipalPolicy":
        names = [form[key][0] for key in form if key.startswith("ActionNames.member.")]
        results = "".join(
            f"<member><EvalActionName>{name}</EvalActionName><EvalDecision>allowed</EvalDecision>"
            "</member>"
            for name in names
        )
        inner = f"<EvaluationResults>{results}</EvaluationResults><IsTruncated>false</IsTruncated>"
        result = f"<SimulatePrincipalPolicyResult>{inner}</SimulatePrincipalPolicyResult>"
        return "200 OK", (
            '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
            f"{result}</SimulatePrincipalPolicyResponse>"
        )
    if action == "DescribeInstanceTypes" and not any(key.startswith("Filter") for key in form):
        body = "<requestId>1</requestId><instanceTypeSet/>"
        return "200 OK", (
            f'<DescribeInstanceTypesResponse xmlns="{_EC2}">{body}</DescribeInstanceTypesResponse>'
        )
    return None


@contextmanager
def serving() -> Iterator[Cloud]:
    """An empty account at ``url``, on this machine's loopback."""
    import requests
    from moto.moto_server.threaded_moto_server import MotoRequestHandler
    from werkzeug.serving import make_server

    cloud = Cloud()
    server = make_server("127.0.0.1", 0, cloud, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    try:
        requests.post(f"{cloud.url}/moto-api/reset", timeout=10).raise_for_status()
        cloud.asked.clear()
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

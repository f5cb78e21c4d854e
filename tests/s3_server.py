"""An S3 of this machine: a moto server that a test may answer for, and a bucket on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

KEY, SECRET = "key", "secret"


class S3:
    """``before`` sees each request, and may answer it by a status in place of the store."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self.before: Callable[[str, str], str | None] = lambda method, path: None
        self.server = make_server("127.0.0.1", 0, self, threaded=True)
        self.port = self.server.server_port
        self.uri = self.address(KEY, SECRET)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def address(self, key: str, secret: str) -> str:
        """Of a folder in the bucket, by credentials (any will do)."""
        return (
            f"s3://{key}:{secret}@bucket/study?scheme=http&region=us-east-1"
            f"&endpoint_override=127.0.0.1:{self.port}"
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """A request, as WSGI has it."""
        status = self.before(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if status is None:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Length", "0")])
        return [b""]


@contextmanager
def running() -> Iterator[S3]:
    """A server with an empty bucket; skips the test where moto is not installed."""
    pytest.importorskip("moto")
    from pyarrow import fs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3()
        maker = fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{server.port}",
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )
        maker.create_dir("bucket")
        yield server
        server.before = lambda method, path: None
        maker.delete_dir("bucket")
        server.server.shutdown()

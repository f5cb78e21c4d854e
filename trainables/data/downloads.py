"""Files from the web: shown while they come, gone on with after a cut, checked, put in place."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trainables import cache

log = logging.getLogger(__name__)

CHUNK = 1 << 20
RETRIES = 3  # of a connection that broke after it had begun
TIMEOUT = 30.0  # seconds without a byte
_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


class DownloadError(ConnectionError):
    """A file that could not be had. The message says what to fetch and where to put it."""


def folder(kind: str) -> Path:
    """Where downloads of a kind are kept, beside the other caches."""
    return cache.folder() / "downloads" / kind


def fetch(
    url: str, digest: str, target: Path, algorithm: str = "sha256", retries: int = RETRIES
) -> Path:
    """The file ``target / NAME`` with the URL's last part as NAME, downloaded unless it is there.

    ``digest`` is the expected hash in hex, or the first digits of it (some libraries put 8 of them
    into file names); empty where the publisher gives none, which is logged. A cut download is gone
    on with by an HTTP range; the file gets its name only once it is whole and its hash is right.

    Raises:
        DownloadError: no connection, a refusal, a wrong hash, or no place to write.
    """
    file = target / url.rsplit("/", 1)[-1].split("?")[0]
    if file.exists() and _matches(file, digest, algorithm):
        return file
    part = file.with_name(file.name + ".part")
    try:
        target.mkdir(parents=True, exist_ok=True)
        _download(url, part, retries)
        if not _matches(part, digest, algorithm):
            found = _hash(part, algorithm)
            part.unlink()
            raise ValueError(f"its {algorithm} is {found[:16]}..., expected {digest[:16]}...")
        os.replace(part, file)
    except (*_BROKEN, ValueError) as error:
        raise DownloadError(_advice(url, file, digest, algorithm, error)) from None
    if not digest:
        log.warning("%s: no hash is published; its sha256 is %s", file, _hash(file, "sha256"))
    return file


def hub_file(repository: str, name: str) -> Path:
    """A file of a model on the Hugging Face hub, or on the mirror that ``$HF_ENDPOINT`` names.

    Its hash is what the hub lists for it.

    Raises:
        DownloadError: as :func:`fetch`.
    """
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    target = folder("hub") / repository.replace("/", "--")
    url = f"{hub}/{repository}/resolve/main/{name}"
    known = target / f"{name}.sha256"
    if known.exists():
        return fetch(url, known.read_text().strip(), target)
    digest = _hub_digest(hub, repository, name, url, target)
    file = fetch(url, digest, target)
    known.write_text(digest)
    return file


def _hub_digest(hub: str, repository: str, name: str, url: str, target: Path) -> str:
    listing = f"{hub}/api/models/{repository}/tree/main"
    try:
        with urllib.request.urlopen(listing, timeout=TIMEOUT) as answer:
            files: list[dict[str, Any]] = json.load(answer)
    except (*_BROKEN, ValueError) as error:
        raise DownloadError(_advice(url, target / name, "", "sha256", error)) from None
    large = {f["path"]: f["lfs"]["oid"] for f in files if "lfs" in f}
    return str(large.get(name, ""))


def _download(url: str, part: Path, retries: int) -> None:
    """All of the URL into ``part``, however often the connection breaks without a byte less."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _go_on(url, part)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError):
            failures = failures + 1 if _size(part) == before else 1
            if failures > retries or _size(part) == 0:
                raise


def _go_on(url: str, part: Path) -> None:
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the range is empty: all of it is here
            return
        raise
    with answer:
        resumed = answer.status == 206
        have = have if resumed else 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left else None
        with part.open("ab" if resumed else "wb") as out:
            _copy(answer, out, have, total, part.name.removesuffix(".part"))
    if total is not None and _size(part) < total:
        raise http.client.IncompleteRead(b"", total - _size(part))


def _copy(answer: Any, out: BinaryIO, have: int, total: int | None, name: str) -> None:
    with _progress(name, have, total) as advance:
        while data := answer.read1(CHUNK):
            out.write(data)
            advance(len(data))


class _progress:
    """A bar on a terminal; elsewhere a line of the log at the start."""

    def __init__(self, name: str, have: int, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(name, total=total, completed=have)
        size = f"{total / 1e6:.1f} MB" if total else "size unknown"
        log.info("downloading %s (%s, %.1f MB here already)", name, size, have / 1e6)

    def __enter__(self) -> Callable[[int], None]:
        self.bar.start()
        return lambda count: self.bar.advance(self.task, count)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _matches(file: Path, digest: str, algorithm: str) -> bool:
    return not digest or _hash(file, algorithm).startswith(digest.lower())


def _hash(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def hash_in_name(url: str) -> str:
    """The digits of the sha256 that a name such as ``resnet18-f37072fd.pth`` ends with, or ''."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    return found[1] if found else ""


def _advice(url: str, file: Path, digest: str, algorithm: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(error, urllib.error.HTTPError):
        reason = f"HTTP {error.code} {error.reason}"
    check = f" ({algorithm} {digest}{'...' if len(digest) < 32 else ''})" if digest else ""
    return (
        f"{file.name} could not be downloaded ({reason}): fetch {url}{check} and put it at {file}"
    )

"""Images are decoded once to find the damaged ones, and hashed; what was found is kept."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from compression.registry import InvalidSetting
from trainables import cache
from trainables.data.images import Labelled

log = logging.getLogger(__name__)

BAD_SHARE = 0.01  # of unreadable images; above it a data set is refused
SHOWN = 5  # names in a message

T = TypeVar("T")
Found = tuple[str, str]
"""Hash of an image's content, and what is wrong with it or ''."""


def examine(data: Any) -> Found:
    """Hash the bytes of an image file and try to decode them."""
    from PIL import Image

    sha256 = hashlib.sha256(data).hexdigest()[:32]
    try:
        with Image.open(io.BytesIO(data)) as image:
            # JPEG: the whole stream is read, but only an eighth of the resolution computed.
            image.draft("RGB", (1, 1))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return sha256, str(error) or type(error).__name__
    return sha256, ""


def examine_files(root: Path, paths: Sequence[str]) -> list[Found]:
    """:func:`examine` files; those unchanged in size and time since the last call are not read."""
    ledger = cache.folder() / "images" / f"{_hash(str(root.resolve()))}.json"
    known = _read(ledger)
    stamps = [_stamp(root / path) for path in paths]
    new = [
        i for i, path in enumerate(paths) if not stamps[i] or known.get(path, [""])[0] != stamps[i]
    ]
    if len(new) > 1000:
        log.info("checking %s images in %s, once", f"{len(new):,}", root)
    found = parallel(lambda i: _examine_file(root / paths[i]), new)
    known.update({paths[i]: [stamps[i], *one] for i, one in zip(new, found, strict=True)})
    if new:
        try:
            write(ledger, lambda aside: aside.write_text(json.dumps(known)))
        except OSError as error:
            log.warning("%s can't be written (%s): the images are checked each time", ledger, error)
    return [(known[path][1], known[path][2]) for path in paths]


def usable(found: Labelled, errors: Sequence[str], names: Sequence[str], origin: str) -> Labelled:
    """The images without an error, each content once; what is left out is said.

    Raises:
        InvalidSetting: more than 1% of them are damaged, some of them named.
    """
    bad = [i for i, error in enumerate(errors) if error]
    if bad:
        first = f"{names[bad[0]]}: {errors[bad[0]]}"
        said = f"{few([names[i] for i in bad], 'image')} of {len(names)} in '{origin}' unreadable"
        if len(bad) > BAD_SHARE * len(names):
            raise InvalidSetting([f"data: {said}, more than {BAD_SHARE:.0%} ({first})"])
        log.warning("%s and left out (%s)", said, first)
    good = [i for i, error in enumerate(errors) if not error]
    first_of = {found.hashes[i]: i for i in reversed(good)}
    rows = [i for i in good if first_of[found.hashes[i]] == i]
    if twice := [names[i] for i in good if first_of[found.hashes[i]] != i]:
        log.warning("%s in '%s' left out: others have the same bytes", few(twice, "image"), origin)
    return found.take(np.array(rows, dtype=np.int64))


def few(names: Sequence[str], one: str) -> str:
    """``3 images (a, b, c)``; of many the first."""
    more = ", ..." if len(names) > SHOWN else ""
    plural = {"class": "classes"}.get(one, f"{one}s")
    noun = one if len(names) == 1 else plural
    return f"{len(names)} {noun} ({', '.join(names[:SHOWN])}{more})"


def parallel(work: Callable[[int], T], items: Sequence[int]) -> list[T]:
    """``work`` of each item, on all cores; decoding and hashing leave Python's lock."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(work, items))


def write(file: Path, make: Callable[[Path], object]) -> None:
    """A file written aside by ``make`` and renamed into place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:
        made = Path(aside, file.name)
        make(made)
        os.replace(made, file)


def _examine_file(file: Path) -> Found:
    try:
        data = file.read_bytes()
    except OSError as error:  # deleted since it was listed, or a link to nowhere
        return "", error.strerror or str(error)
    return examine(data)


def _stamp(file: Path) -> str:
    """Size and time of a file, '' where it can't be reached."""
    try:
        stat = os.stat(file)
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _read(ledger: Path) -> dict[str, list[str]]:
    try:
        known: dict[str, list[str]] = json.loads(ledger.read_bytes())
    except (OSError, ValueError):
        return {}
    return known


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

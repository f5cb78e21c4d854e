"""What is shipped: a wheel of the project as it is installed here, and the versions beside it.

An editable installation has no wheel, and ``pip`` could build another one than what runs here; so
the files that Python imports are put into one, and nothing else of the folders around them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from clusters.check import Check

PROJECT = "paretune"
FOLDERS = ("analysis", "clusters", "compression", "study", "trainables")
MOST_BYTES = 100 * 2**20  # what Ray stores for a job
NEEDED = ("ray[default]",)  # on nodes, beside what the project asks for: its job server
_SHOWN = 3
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same wheel


@dataclass(frozen=True)
class Wheel:
    """A wheel's files, by their names in it."""

    name: str
    files: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes before compression: what travels is smaller."""
        return sum(map(len, self.files.values()))

    @property
    def sha256(self) -> str:
        """Of names and contents."""
        summed = hashlib.sha256()
        for name, data in self.files.items():
            summed.update(f"{name}\0{len(data)}\0".encode() + data)
        return summed.hexdigest()

    def unpack(self, folder: Path) -> None:
        """Write its files as an installation would."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def write(self, folder: Path) -> Path:
        """Write the wheel itself."""
        path = folder / self.name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.files.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
        return path


def wheel() -> Wheel:
    """The project as it is installed here."""
    files = {name: path.read_bytes() for name, path in _sources()}
    found = importlib.metadata.distribution(PROJECT)
    info = f"{PROJECT}-{found.version}.dist-info"
    # A checkout's own metadata has the older name.
    about = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    files[f"{info}/METADATA"] = about.encode()
    if points := found.read_text("entry_points.txt"):
        files[f"{info}/entry_points.txt"] = points.encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: paretune\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    return Wheel(f"{PROJECT}-{found.version}-py3-none-any.whl", files)


def _sources() -> Iterator[tuple[str, Path]]:
    for package in FOLDERS:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield f"{package}/{path.relative_to(folder).as_posix()}", path


def _record(files: Mapping[str, bytes], own: str) -> bytes:
    def line(name: str, data: bytes) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(data)}\n"

    return ("".join(line(*item) for item in files.items()) + f"{own},,\n").encode()


def requirements(extras: Sequence[str] = ()) -> list[str]:
    """What the nodes install: all that the project needs with these extras, as it is here.

    Each is pinned to the version of this machine, so that head and workers compute alike. An extra
    that is not installed here keeps the project's own bounds.
    """
    found = dict[str, str]()
    asked = [*NEEDED, PROJECT + (f"[{','.join(extras)}]" if extras else "")]
    _collect(asked, found)
    return [found[name] for name in sorted(found)]


def _collect(asked: Sequence[str], found: dict[str, str]) -> None:
    for text in asked:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name != PROJECT:
            extras = {*wanted.extras, *(Requirement(found[name]).extras if name in found else ())}
            listed = f"[{','.join(sorted(extras))}]" if extras else ""
            found[name] = f"{name}{listed}{_pin(name) or wanted.specifier}"
            continue
        _collect(list(_needs(wanted.extras)), found)


def _needs(extras: set[str]) -> Iterator[str]:
    for text in importlib.metadata.requires(PROJECT) or []:
        wanted = Requirement(text)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            wanted.marker = None
            yield str(wanted)


def _pin(name: str) -> str | None:
    try:
        return f"=={Version(importlib.metadata.version(name)).public}"
    except importlib.metadata.PackageNotFoundError:
        return None


def size_check(wheel: Wheel, others: Mapping[str, bytes]) -> Check:
    """Whether what a job takes along is small enough for Ray; its largest files."""
    files = {**wheel.files, **others}
    total = sum(map(len, files.values()))
    largest = sorted(files, key=lambda name: len(files[name]), reverse=True)[:_SHOWN]
    told = ", ".join(f"{name} {len(files[name]) / 1e6:.2g} MB" for name in largest)
    found = f"{total / 1e6:.3g} MB in {len(files)} files; the largest: {told}"
    if total <= MOST_BYTES:
        return Check("package", found)
    return Check(
        "package",
        problem=f"{found}; Ray takes {MOST_BYTES / 2**20:.0f} MiB",
        mend="move what is no code out of the package and the plugins",
    )

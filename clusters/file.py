"""A cluster file: Ray's cluster launcher's own format, with our settings in its metadata."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clusters.errors import InvalidCluster
from clusters.settings import Settings

Key = tuple[str | int, ...]
OURS = ("metadata", "study")


class Document(Protocol):
    """Plain data, and where each part of it was written."""

    @property
    def data(self) -> dict[str, Any]:
        """What was written."""
        ...

    @property
    def source(self) -> str:
        """Of the file."""
        ...

    def where(self, path: Key) -> str:
        """``FILE:LINE`` of a key."""
        ...


@dataclass(frozen=True)
class NodeType:
    """A kind of machine in a cluster; ``gpus`` and ``cpus`` of None are found by the provider."""

    name: str
    config: Mapping[str, Any]
    cpus: float | None
    gpus: float | None
    least: int
    most: int
    is_head: bool


@dataclass(frozen=True)
class ClusterFile:
    """A checked cluster file."""

    document: Document
    settings: Settings

    @property
    def data(self) -> dict[str, Any]:
        """As ``ray up`` takes it."""
        return self.document.data

    @property
    def path(self) -> Path:
        """Of the file."""
        return Path(self.document.source)

    @property
    def name(self) -> str:
        """Of the cluster."""
        return str(self.data["cluster_name"])

    @property
    def provider(self) -> dict[str, Any]:
        """The section of that name."""
        return dict(self.data["provider"])

    @property
    def auth(self) -> dict[str, Any]:
        """The section of that name."""
        return dict(self.data.get("auth") or {})

    def at(self, *path: str | int) -> str:
        """``FILE:LINE: key`` of a place, as errors begin."""
        words = ".".join(str(part) for part in path if isinstance(part, str))
        return f"{self.document.where(path)}: {words}"

    def node_types(self) -> Iterator[NodeType]:
        """The kinds of machines, the head's among them."""
        everywhere = int(self.data.get("max_workers", 2))
        for name, given in (self.data.get("available_node_types") or {}).items():
            resources = given.get("resources") or {}
            is_head = name == self.data.get("head_node_type")
            yield NodeType(
                name,
                given.get("node_config") or {},
                resources.get("CPU"),
                resources.get("GPU"),
                int(given.get("min_workers", 0)),
                int(given.get("max_workers", 0 if is_head else everywhere)),
                is_head,
            )


def parse(document: Document) -> ClusterFile:
    """Check a file against Ray's schema and our settings.

    Raises:
        InvalidCluster: what is wrong, each error with its line.
    """
    errors = list(_against_schema(document))
    metadata = document.data.get("metadata")
    ours = metadata.get("study", {}) if isinstance(metadata, dict) else {}
    try:
        settings = Settings.model_validate({} if ours is None else ours)
    except ValidationError as error:
        errors += [_said(document, each) for each in error.errors()]
    if errors:
        raise InvalidCluster(errors)
    return ClusterFile(document, settings)


def _against_schema(document: Document) -> Iterator[str]:
    import jsonschema

    for error in jsonschema.Draft7Validator(_schema()).iter_errors(document.data):
        path = tuple(error.absolute_path)
        allowed = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            for key in sorted(set(error.instance) - set(allowed)):
                yield _unknown(document, (*path, key), allowed)
        elif error.validator == "required" and isinstance(error.instance, dict):
            for key in sorted(set(error.validator_value) - set(error.instance)):
                yield f"{_place(document, (*path, key))} is missing"
        else:
            yield f"{_place(document, path)}: {error.message}"


@cache
def _schema() -> Any:
    import ray.autoscaler

    folder = Path(ray.autoscaler.__file__).parent
    return json.loads((folder / "ray-schema.json").read_text())


def _said(document: Document, error: ErrorDetails) -> str:
    path = (*OURS, *error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(document, path, Settings.model_fields)
    message = error["msg"].replace("Input should be", "expected")
    return f"{_place(document, path)}: {message}, got {error['input']!r}"


def _unknown(document: Document, path: Key, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(path[-1]), list(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
    return f"{_place(document, path)}: unknown key '{path[-1]}'; {hint}"


def _place(document: Document, path: Key) -> str:
    words = ".".join(str(part) for part in path if isinstance(part, str))
    return f"{document.where(path)}: {words}" if words else document.where(path)

"""YAML that remembers where each key stands, so that an error can name its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml

from compression.registry import InvalidSetting

Path = tuple[str | int, ...]
MOST_LINES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: ``1e-3`` is a number, ``off`` and ``2020-01-01`` are words."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


@dataclass(frozen=True)
class Document:
    """Plain data and the place that each path of it comes from, as ``FILE:LINE``."""

    data: dict[str, Any]
    places: Mapping[Path, str]
    source: str

    def where(self, path: Path) -> str:
        """The place of ``path``, or of the nearest thing around it that was written down."""
        for end in range(len(path), -1, -1):
            if place := self.places.get(path[:end]):
                return place
        return self.source

    def override(self, key: str, text: str) -> Document:
        """A copy in which the dotted ``key`` has the value that ``text`` spells in YAML.

        Raises:
            InvalidSetting: ``text`` is not YAML, or ``key`` goes through something that is no
                mapping.
        """
        path: Path = tuple(key.split("."))
        if not all(path):
            raise InvalidSetting([f"command line: '{key}' is no key; expected words and dots"])
        value = _parse(text, f"command line: {key}")[0]
        data = _replaced(self.data, path, value, key)
        kept = {p: place for p, place in self.places.items() if p[: len(path)] != path}
        made = {path[:end]: "command line" for end in range(1, len(path) + 1)}
        return Document(data, {**made, **kept}, self.source)


def load(text: str, source: str) -> Document:
    """Read a YAML mapping.

    Raises:
        InvalidSetting: malformed YAML (with its line), a key given twice, or no mapping.
    """
    data, lines = _parse(text, source)
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise InvalidSetting([f"{source}:1: expected keys with values, got {data!r}"])
    return Document(data, {path: f"{source}:{line}" for path, line in lines.items()}, source)


def _parse(text: str, source: str) -> tuple[Any, dict[Path, int]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(islice(_walk(node, (), source), MOST_LINES + 1))
        if len(lines) > MOST_LINES:  # a few aliases of aliases spell more than memory holds
            raise InvalidSetting([f"{source}: more than {MOST_LINES:,} keys and items"])
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidSetting([f"{source}{line}: malformed YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise InvalidSetting([f"{source}: malformed YAML: {error}".replace("\n", " ")]) from None
    except RecursionError:
        raise InvalidSetting([f"{source}: malformed YAML: nested too deeply"]) from None
    except ValueError as error:  # an integer without end, base64 that is none
        if isinstance(error, InvalidSetting):
            raise
        raise InvalidSetting([f"{source}: malformed YAML: {error}"]) from None


def _walk(node: yaml.Node, path: Path, source: str) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _walk(item, (*path, index), source)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str"):
                raise InvalidSetting([f"{source}:{line}: a key must be a word, got '{name}'"])
            if name in first:
                raise InvalidSetting(
                    [f"{source}:{line}: {name}: given twice, first in line {first[name]}"]
                )
            first[name] = line
            yield (*path, name), line
            yield from _walk(value, (*path, name), source)


def _replaced(data: Any, path: Path, value: Any, key: str) -> Any:
    if not path:
        return value
    # A plugin named by a bare word, `scheduler: asha`, is short for `scheduler: {asha: {}}`.
    inner = {} if data is None else {data: {}} if data == path[0] else data
    if not isinstance(inner, dict):
        raise InvalidSetting(
            [f"command line: {key}: '{path[0]}' stands below {data!r}, no mapping"]
        )
    return {**inner, str(path[0]): _replaced(inner.get(path[0]), path[1:], value, key)}

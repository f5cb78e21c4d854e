"""What a config says of layer-wise spaces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field, PlainValidator, StrictBool, StrictInt, StrictStr

from study.fields.amounts import parse_bytes
from study.fields.choices import Located
from study.fields.sections import Section, as_written
from study.fields.space_fields import Alphas, Options, Ranks, options_or_none
from study.layerwise.groups import NAMED, target_names

GROUPED = ("method", "init", "adapter", "rank", "alpha")
"""What each group has its own choice of; all else is one for the model."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class GroupConfig(Section):
    """The layers that match ``layers``, and what may be tried on them; absent is as for all."""

    layers: Annotated[StrictStr, Field(min_length=1)]
    method: Annotated[Options | None, options_or_none("method")] = None
    init: Annotated[Options | None, options_or_none("init")] = None
    adapter: Annotated[Options | None, options_or_none("adapter")] = None
    rank: Ranks | None = None
    alpha: Alphas = None


def _bytes(value: object) -> int | None:
    return None if value is None else int(parse_bytes(value))


def _by_name(value: Any, info: pydantic.ValidationInfo) -> Any:
    """``each`` and ``blocks`` in full; ``NAME: PATTERN`` as the group that it is short for."""
    if isinstance(value, Mapping):
        wrong = [name for name in value if not _NAME.fullmatch(str(name))]
        if wrong:
            text = "a group's name has letters, digits and . _ - only: it is part of keys"
            raise Located([((str(name),), text) for name in wrong])
        return {k: {"layers": v} if isinstance(v, str) else v for k, v in value.items()}
    if not isinstance(value, str) or value not in NAMED:
        raise ValueError(f"expected {', '.join(NAMED)}, or NAME: PATTERN lines, got {value!r}")
    task = (info.context or {}).get("task")
    found = {} if task is None else NAMED[value](target_names(task))
    return {name: {"layers": pattern} for name, pattern in found.items()}


class LayerwiseConfig(Section):
    """Groups of layers, in their order: the first whose pattern a layer matches has it.

    Every suggestion is repaired to a file of at most ``max_bytes``; with ``fill`` what is left of
    these is spent. ``starts`` suggestions come from the measured sensitivity of the groups.
    """

    groups: Annotated[dict[str, GroupConfig], BeforeValidator(_by_name)] = as_written("each")
    max_bytes: Annotated[int | None, PlainValidator(_bytes)] = None
    fill: StrictBool = False
    starts: Annotated[StrictInt, Field(ge=0)] = 8

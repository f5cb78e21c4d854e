"""Files that optional packages bring along, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from compression.registry import InvalidSetting


def package_folder(package: str, extra: str) -> Path:
    """Where an installed package's files are.

    Raises:
        InvalidSetting: it is absent; ``extra`` is ours that brings it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidSetting([f"{package} is absent: pip install 'paretune[{extra}]'"])
    return Path(next(iter(spec.submodule_search_locations)))

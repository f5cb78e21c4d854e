"""Small instances of plugins that have required settings: the contract tests run over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {}
"""By task name: settings that need no network, their files made in the given folder."""

"""Studies: config, search, log, tracking. ``Study`` and the config readers are imported on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.config import StudyConfig, load_config, make_config, parse_config
    from study.study import Study

_WHERE = {
    "Study": "study.study",
    "StudyConfig": "study.config",
    "load_config": "study.config",
    "make_config": "study.config",
    "parse_config": "study.config",
}
__all__ = ["Study", "StudyConfig", "load_config", "make_config", "parse_config"]


def __getattr__(name: str) -> Any:
    # Ray, torch and Optuna take seconds to import; `python -m study.run --help` must not.
    if name not in _WHERE:
        raise AttributeError(f"module 'study' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)

"""A user's own plugins: Python files named in the config, and installed entry points."""

from __future__ import annotations

import hashlib
import sys
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from compression.registry import InvalidSetting
from study.store.names import is_part

GROUP = "paretune.plugins"
_failed: dict[str, InvalidSetting] = {}


@dataclass(frozen=True)
class PluginFile:
    """A Python file that registers plugins when it runs. Travels to workers as its text."""

    name: str
    source: str

    @classmethod
    def read(cls, path: str | Path) -> PluginFile:
        """Read the file.

        Raises:
            InvalidSetting: it is missing or no UTF-8 text.
        """
        try:
            return cls(Path(path).name, Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidSetting([f"cannot read plugin file '{path}': {reason}"]) from None

    @property
    def sha256(self) -> str:
        """Of the text; goes into every record's origin."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def load(self) -> None:
        """Run the file once in this process, so that its plugins are registered.

        Raises:
            InvalidSetting: the file raises; names the file, the line and the error.
        """
        module = f"paretune_plugin_{self.sha256[:16]}"
        if error := _failed.get(module):
            raise error
        if module in sys.modules:
            return
        # In sys.modules before it runs: dataclasses look their own module up there.
        sys.modules[module] = types.ModuleType(module)
        sys.modules[module].__file__ = self.name
        try:
            exec(compile(self.source, self.name, "exec"), sys.modules[module].__dict__)
        except Exception as error:
            del sys.modules[module]
            _failed[module] = InvalidSetting([self._cause(error)])
            raise _failed[module] from error

    def _cause(self, error: Exception) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == self.name]
        # Without a frame of its own the file did not even compile.
        line = own[-1] if own else getattr(error, "lineno", None)
        return f"plugin file {self.name}, line {line}: {type(error).__name__}: {error}"


def sent_along(info: Mapping[str, Any]) -> list[PluginFile]:
    """The plugin files that a ``study.json`` names, not yet run: from the current folder alone.

    A study that somebody else made brings names along; what runs is the user's own file.

    Raises:
        InvalidSetting: a name that is a path, or a file that is not here.
    """
    names, sums = info.get("config", {}).get("plugins", ()), info.get("plugins", {})
    wrong = [
        f"the study used the plugin file {name} (sha256 {sums.get(name, 'unknown')[:16]}...); "
        "run this in the folder that holds it"
        if is_part(name)
        else f"the study names the plugin file {repr(name)[:200]}: expected a name without folders"
        for name in names
        if not (is_part(name) and Path(name).is_file())
    ]
    if wrong:
        raise InvalidSetting(wrong)
    return [PluginFile.read(name) for name in names]


def load_entry_points() -> dict[str, str]:
    """Load the plugins of installed packages; their versions by entry point name.

    Raises:
        InvalidSetting: some cannot be imported; names each and its package.
    """
    versions, errors = {}, []
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else "unknown package"
        try:
            point.load()
        except Exception as error:
            errors.append(
                f"plugin '{point.name}' of {package} ({point.value}): "
                f"{type(error).__name__}: {error}"
            )
        versions[point.name] = f"{package} {point.dist.version}" if point.dist else package
    if errors:
        raise InvalidSetting(errors)
    return versions

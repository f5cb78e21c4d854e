"""Makes the API's pages of HTML with pdoc: ``python docs/api.py [FOLDER]``, by default ./api.

Needs the extra ``docs``.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pdoc
from pdoc.extract import walk_specs

PACKAGES = ("compression", "trainables", "analysis", "study", "clusters")

# Annotations that pdoc takes in the wrong place, and shows as they are written: those of an
# inherited __init__, and `list[str]` in a class that has a method of that name.
UNREAD = ("study.layerwise.space.LayerwiseSpace.__init__", "study.store.storage.Storage.list")


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """The package and all below it."""
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def resolve(module: ModuleType) -> None:
    """Put there what pdoc does not find: names imported on use, types of named tuples."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and hasattr(cls, "_fields"):
            try:
                cls.__new__.__annotations__ = typing.get_type_hints(cls)
            except NameError:
                continue  # imported for type checkers alone: pdoc looks there


def main() -> None:
    """See the module."""
    found = [m for name in PACKAGES for m in modules(importlib.import_module(name))]
    for module in found:
        resolve(module)
    # Of a package that has __all__ pdoc shows what that names, and no modules: these by name.
    specs, shown = list(PACKAGES), set(walk_specs(PACKAGES))
    for name in (module.__name__ for module in found):
        if name not in shown:
            specs.append(name)
            shown |= set(walk_specs([name]))
    for where in UNREAD:
        warnings.filterwarnings("ignore", rf".*for {re.escape(where)}[.:]")
    pdoc.pdoc(*specs, output_directory=Path(*sys.argv[1:2] or ["api"]))


if __name__ == "__main__":
    main()

"""Plugins: frozen configs that check themselves, found by name.

A plugin is a frozen dataclass whose fields are made by :func:`knob`. The knob says which values are
valid, which of them a study searches by default, and when the knob means anything at all. The same
table serves validation, the search space and the command line's ``--list``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform

from compression.domains import (
    ANYTHING,
    Domain,
    FloatAbove,
    FloatRange,
    IntRange,
    Scalar,
    Text,
    Values,
)

__all__ = [
    "ANYTHING",
    "Domain",
    "FloatAbove",
    "FloatRange",
    "IntRange",
    "InvalidSetting",
    "Knob",
    "Plugin",
    "Registry",
    "Scalar",
    "Text",
    "UnknownName",
    "Values",
    "errors_of",
    "knob",
    "naming",
]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class InvalidSetting(ValueError):
    """One or more settings are wrong; ``errors`` holds one sentence for each."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(self.errors))

    def __reduce__(self) -> tuple[type[InvalidSetting], tuple[tuple[str, ...]]]:
        """Survive the pickling that exceptions go through between processes."""
        return type(self), (self.errors,)


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say in every :class:`InvalidSetting` from the block where it came up."""
    try:
        yield
    except InvalidSetting as error:
        raise InvalidSetting(f"{place}: {text}" for text in error.errors) from error


def errors_of(check: Callable[[], object]) -> tuple[str, ...]:
    """What a call finds wrong: the sentences of its :class:`InvalidSetting`, if it raises one."""
    try:
        check()
    except InvalidSetting as error:
        return error.errors
    return ()


class UnknownName(InvalidSetting):
    """A name that no plugin of this kind has."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        close = difflib.get_close_matches(str(name), self.known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(self.known)}"
        super().__init__([f"unknown {kind} '{name}'; {hint}"])

    def __reduce__(self) -> Any:
        """See :class:`InvalidSetting`."""
        return type(self), (self.kind, self.name, self.known)


@dataclass(frozen=True)
class Knob:
    """What one field of a plugin may be, and what a study tries of it.

    ``search`` is None for a knob that a study leaves at its default unless asked. ``when`` maps
    other fields to the values under which this knob has an effect; elsewhere it keeps its default.
    ``found`` says that the work itself finds the value: files hold it, and no study may ask for it.
    """

    valid: Domain | Text
    search: Domain | None = None
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    help: str = ""
    found: bool = False


def knob(
    default: Any,
    valid: Domain | Text,
    search: Domain | None = None,
    when: Mapping[str, tuple[Scalar, ...]] | None = None,
    help: str = "",
    found: bool = False,
) -> Any:
    """Declare a plugin's field: see :class:`Knob`."""
    meta = Knob(valid, search, dict(when or {}), help, found)
    return field(default=default, metadata={"knob": meta})


@dataclass(frozen=True)
class Plugin:
    """A frozen, self-checking configuration with a registered name.

    Raises:
        InvalidSetting: a knob is outside its valid values, or is set where it means nothing.
    """

    name: ClassVar[str] = ""
    catalogue_id: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every knob and report all errors at once."""
        errors = list(self._problems())
        if errors:
            raise InvalidSetting(errors)

    def _problems(self) -> Iterator[str]:
        for f in fields(self):
            meta = type(self).knobs()[f.name]
            value = getattr(self, f.name)
            where = f"{self.name}.{f.name}"
            if problem := meta.valid.problem(value):
                yield f"{where}: {problem}"
            elif value != f.default and not self.applies(f.name):
                needs = " and ".join(
                    f"{k} is {' or '.join(map(str, v))}" for k, v in meta.when.items()
                )
                yield f"{where}: has no effect here; it is read only when {needs}"

    def applies(self, knob_name: str) -> bool:
        """Whether this knob has an effect under the values of the others."""
        when = type(self).knobs()[knob_name].when
        return all(getattr(self, other) in values for other, values in when.items())

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The plugin's knobs by field name, in the order of declaration."""
        return {f.name: f.metadata["knob"] for f in fields(cls)}

    def args(self) -> dict[str, Scalar]:
        """The settings that differ from the defaults: what a record needs to name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}

    def replace(self, **changes: Scalar) -> Any:
        """A copy with some settings changed, checked again."""
        return dataclasses.replace(self, **changes)


P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """The plugins of one kind by name."""

    def __init__(self, kind: str, base: type[P]) -> None:
        self.kind, self.base = kind, base
        self._plugins: dict[str, type[P]] = {}

    @dataclass_transform(frozen_default=True, field_specifiers=(knob,))
    def register(self, name: str) -> Callable[[type[P]], type[P]]:
        """Class decorator: make the class a frozen dataclass and give it ``name``.

        Raises:
            InvalidSetting: the name is malformed or taken, the class is not of this registry's
                kind, has no docstring, or has a field that is no knob. Raised at import, loudly.
        """

        def add(cls: type[P]) -> type[P]:
            cls = dataclass(frozen=True)(cls)
            if errors := list(self._objections(name, cls)):
                raise InvalidSetting(errors)
            cls.name = name
            self._plugins[name] = cls
            return cls

        return add

    def _objections(self, name: str, cls: type[P]) -> Iterator[str]:
        if not _NAME.fullmatch(name):
            yield f"{self.kind} name '{name}' must match {_NAME.pattern}"
        if name in self._plugins:
            yield f"{self.kind} '{name}' is registered twice"
        if not issubclass(cls, self.base):
            yield f"{self.kind} '{name}' must derive from {self.base.__name__}"
        doc = cls.__dict__.get("__doc__") or ""
        if not doc.strip() or doc.startswith(f"{cls.__name__}("):
            yield f"{self.kind} '{name}' needs a docstring: its first line is its help"
        names = {f.name for f in fields(cls)}
        for f in fields(cls):
            meta = f.metadata.get("knob")
            if meta is None:
                yield f"{self.kind} '{name}': field '{f.name}' must be declared with knob()"
            elif unknown := set(meta.when) - names:
                yield f"{self.kind} '{name}': knob '{f.name}' depends on unknown {sorted(unknown)}"

    def __getitem__(self, name: str) -> type[P]:
        """The plugin class.

        Raises:
            UnknownName: with the closest known name.
        """
        if name not in self._plugins:
            raise UnknownName(self.kind, name, self._plugins)
        return self._plugins[name]

    def __contains__(self, name: object) -> bool:
        return name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins)

    def __len__(self) -> int:
        return len(self._plugins)

    def help(self, name: str) -> str:
        """The one line that ``--list`` prints."""
        return (self[name].__doc__ or "").strip().splitlines()[0]

    def build(self, name: str, args: Mapping[str, Scalar] | None = None) -> P:
        """Make a configured plugin.

        Raises:
            UnknownName: no such plugin.
            InvalidSetting: an unknown or invalid knob; all of them at once.
        """
        cls = self[name]
        known = cls.knobs()
        given = dict(args or {})
        unknown = [
            f"{name}: {UnknownName('knob', key, known or ['(none)']).errors[0]}"
            for key in given
            if key not in known
        ]
        try:
            plugin = cls(**{k: v for k, v in given.items() if k in known})
        except InvalidSetting as error:
            raise InvalidSetting([*unknown, *error.errors]) from None
        if unknown:
            raise InvalidSetting(unknown)
        return plugin

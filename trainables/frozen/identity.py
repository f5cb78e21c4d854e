"""What code and settings compute, as a text: equal where the values are bound to be equal."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.frozen.cuts import tensor_hash
from trainables.frozen.feature_files import FeatureCacheError
from trainables.tasks.base import Task

PLAIN = (int, float, complex, str, bytes, type(None), type(...), slice, range)
TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_STANDARD = frozenset(vars(nn.Module())) - {"training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# Of such parts of an object no value comes: loggers, locks, weak references.
_MACHINERY = frozenset({"logging", "threading", "_thread", "weakref", "_weakref"})


class Unidentified(FeatureCacheError):
    """Something that cannot be told apart from another: what is computed with it is not kept."""


def code_hash(modules: Mapping[str, nn.Module], *more: object) -> str:
    """Hash of what modules compute apart from their tensors and parts: source, settings, hooks.

    Raises:
        Unidentified: a module holds what cannot be told apart from another.
    """
    found, describe = hashlib.sha256(torch.__version__.encode()), _Describe()
    for name, module in modules.items():
        found.update(f"{name}|{describe.module(module, name)}\n".encode())
    for item in more:
        found.update(f"{describe(item, 'the task')}\n".encode())
    return found.hexdigest()


def below(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Modules by dotted name, with all that they contain."""
    return {
        path: module
        for name in names
        for path, module in model.get_submodule(name).named_modules(prefix=name)
    }


def task_text(task: Task) -> str:
    """A task's settings, its class and the source of that."""
    return f"{task}|{class_text(type(task))}"


def config_text(model: nn.Module) -> str:
    """A Hugging Face model's config; empty for others."""
    return _config(getattr(model, "config", None))


def _config(value: object) -> str:
    to_text: Callable[[], str] | None = getattr(value, "to_json_string", None)
    if to_text is None or isinstance(value, type):
        return ""
    return f"{to_text()}{getattr(value, '_attn_implementation', '')}"


class _Describe:
    """Texts of values; ``where`` names a value for people."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[object, str]] = {}

    def __call__(self, value: object, where: str) -> str:
        if isinstance(value, (*PLAIN, *TORCH)):
            return f"{type(value).__name__}:{value!r}"
        if id(value) not in self.known:  # a value is kept with its text: else ids come again
            self.known[id(value)] = (value, "itself")
            self.known[id(value)] = (value, self._text(value, where))
        return self.known[id(value)][1]

    def module(self, module: nn.Module, where: str) -> str:
        """A module without its parts and tensors."""
        settings = {k: v for k, v in vars(module).items() if k not in _STANDARD}
        hooks = [list(getattr(module, name).values()) for name in _HOOKS]
        kind = class_text(type(module))
        return f"{kind}|{self._mapping(settings, where)}|{self(hooks, where)}"

    def _text(self, value: Any, where: str) -> str:
        if isinstance(value, Tensor):
            return tensor_hash(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
        if isinstance(value, type):
            return class_text(value)
        if isinstance(value, ModuleType):
            return f"{value.__name__} {_version(value.__name__)}"
        if isinstance(value, nn.Module):
            return self._apart(value, where)
        if callable(value) and (text := self._function(value, where)):
            return text
        if text := _config(value):
            return text
        if isinstance(value, Mapping):
            return f"{type(value).__name__}{self._mapping(value, where)}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}[{','.join(self(v, where) for v in value)}]"
        if isinstance(value, set | frozenset):
            return f"{type(value).__name__}{sorted(self(v, where) for v in value)}"
        return self._object(value, where)

    def _mapping(self, value: Mapping[Any, Any], where: str) -> str:
        inner = {k: f"{where}.{k}" if isinstance(k, str) else where for k in value}
        items = sorted((self(k, where), self(v, inner[k])) for k, v in value.items())
        return f"{{{','.join(f'{key}={text}' for key, text in items)}}}"

    def _apart(self, value: nn.Module, where: str) -> str:
        """A module that is no registered part of the model: with all of its own."""
        parts = [self.module(m, f"{where}.{name}") for name, m in value.named_modules()]
        tensors = (*value.named_parameters(), *value.named_buffers())
        return f"{parts}{[(name, tensor_hash(tensor)) for name, tensor in tensors]}"

    def _function(self, value: Any, where: str) -> str:
        if isinstance(value, functools.partial):
            return f"partial{self([value.func, value.args, value.keywords], where)}"
        if isinstance(value, MethodType):
            return f"{value.__func__.__qualname__} of {self(value.__self__, where)}"
        if isinstance(value, FunctionType):
            held = inspect.getclosurevars(value).nonlocals if value.__closure__ else {}
            given = [value.__defaults__, value.__kwdefaults__, held]
            name = f"{value.__module__}.{value.__qualname__}"
            return f"{name} {_code_text(value.__code__)} {self(given, where)}"
        if isinstance(value, BuiltinFunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        return ""

    def _object(self, value: Any, where: str) -> str:
        kind = type(value)
        if kind.__module__.partition(".")[0] in _MACHINERY:
            return kind.__qualname__
        if vars_of := getattr(value, "__dict__", None):
            return f"{class_text(kind)}{self._mapping(vars_of, where)}"
        text = repr(value)
        if " at 0x" in text and _stateless(value):
            return class_text(kind)
        if " at 0x" in text:
            raise Unidentified(
                f"'{where}' holds a {kind.__qualname__} that cannot be told apart from another"
            )
        return f"{class_text(kind)}{text}"


def _stateless(value: object) -> bool:
    """Whether a Python class made an object without attributes."""
    return getattr(value, "__dict__", None) == {} and type(value).__base__ is object


_classes: dict[type, str] = {}


def class_text(kind: type) -> str:
    """A class and those it is derived from, each by name and source."""
    if kind not in _classes:
        _classes[kind] = " ".join(_one_class(base) for base in kind.__mro__ if base is not object)
    return _classes[kind]


def _one_class(kind: type) -> str:
    name, package = f"{kind.__module__}.{kind.__qualname__}", kind.__module__.partition(".")[0]
    if package in ("torch", "builtins", "abc", "typing"):  # known by torch's version and Python's
        return name
    source = _source_hash(kind.__module__) or _methods(vars(kind).values())
    return f"{name} {_version(package)} {source}"


def _methods(members: Collection[object]) -> str:
    """Of a class that was made at run time, from no file: the byte code of its functions."""
    return " ".join(_code_text(m.__code__) for m in members if isinstance(m, FunctionType))


def _code_text(code: CodeType) -> str:
    text = f"{code.co_code.hex()}{code.co_names}{[_constant_text(c) for c in code.co_consts]}"
    return hashlib.sha256(text.encode()).hexdigest()


def _constant_text(value: object) -> str:
    if isinstance(value, CodeType):
        return _code_text(value)
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _version(package: str) -> str:
    return str(getattr(sys.modules.get(package.partition(".")[0]), "__version__", ""))


@lru_cache(maxsize=4096)
def _source_hash(module: str) -> str:
    """Of the file of a module; empty where it is in none."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()

"""The contract of an exporter: a compressed model as a file that another runtime runs."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression.kinds import bare
from compression.layers import packed_of
from compression.registry import InvalidSetting, Plugin, Registry
from compression.rules import layers_of

EXTRA = "export"
"""The optional dependencies of this project that the runtimes are in."""
DENSE = "dense"

Inputs = Tensor | Mapping[str, Tensor]
"""What a model is called with: one tensor, or tensors by keyword; examples along dimension 0."""


def called(model: nn.Module, inputs: Inputs) -> Tensor:
    """The outputs of a model that takes its inputs as they are and gives one tensor."""
    outputs: Tensor = model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
    return outputs


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Without remarks, warnings and progress bars of libraries by these names."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def lossless(values: Tensor) -> Tensor:
    """In half precision, if that changes no value; contiguous."""
    if values.dtype == torch.float32:
        for dtype in (torch.float16, torch.bfloat16):
            if torch.equal((narrow := values.to(dtype)).float(), values):
                return narrow.contiguous()
    return values.contiguous()


@dataclass(frozen=True)
class Loader:
    """What makes a model out of its packed file in a process of its own.

    ``script`` is the file that MLflow runs; it finds ``config``, plain data, in its context, and
    imports what lies in ``packages``, folders that are copied beside it.
    """

    script: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """What is exported: a model as :func:`compression.load` gives it, and how it is called.

    Args:
        model: in eval mode, as loaded from ``packed``.
        inputs: an example batch; other batches may have any number of examples.
        forward: what is computed: the outputs (b, ...) of the model for a batch.
        packed: our own file of it.
        loader: for runtimes that run our own code.
    """

    model: nn.Module
    inputs: Inputs
    packed: bytes
    forward: Callable[[nn.Module, Inputs], Tensor] = called
    loader: Loader | None = None

    @property
    def named(self) -> dict[str, Tensor]:
        """The example batch by name: ``input`` where it is one tensor."""
        return {"input": self.inputs} if isinstance(self.inputs, Tensor) else dict(self.inputs)

    def outputs(self, model: nn.Module, *tensors: Tensor) -> Tensor:
        """The outputs for the tensors of a batch, in the order of :attr:`named`."""
        if isinstance(self.inputs, Tensor):
            return self.forward(model, tensors[0])
        return self.forward(model, dict(zip(self.inputs, tensors, strict=True)))


@dataclass(frozen=True)
class Exported:
    """What was written: the file or folder to hand to the runtime, and each layer's form in it."""

    path: Path
    layers: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


class Exporter(Plugin, ABC):
    """Writes a model for one runtime, and runs what it wrote there."""

    modules: ClassVar[tuple[str, ...]] = ()
    """Those of the extra that it needs."""

    def check(self) -> None:
        """Find out whether the runtime is installed.

        Raises:
            InvalidSetting: a line for each module that is absent, naming the extra.
        """
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if absent:
            raise InvalidSetting(
                f"{self.name} needs {name}: pip install 'paretune[{EXTRA}]'" for name in absent
            )

    def refusals(self, source: Source) -> Iterator[str]:
        """Why it cannot write this model: a sentence each; none by default."""
        yield from ()

    @abstractmethod
    def keeps(self, layer: nn.Module) -> str | None:
        """How the file holds a compressed layer's weight; None where it holds it dense."""

    @abstractmethod
    def write(self, source: Source, folder: Path) -> Exported:
        """Write the model into a folder that exists.

        Raises:
            InvalidSetting: this model, or these settings, cannot be written.
        """

    @abstractmethod
    def opened(self, path: Path, source: Source) -> Callable[[Inputs], Tensor]:
        """What was written of a source, loaded back in its runtime: outputs for a batch.

        Raises:
            InvalidSetting: the runtime refuses the file.
        """

    def layers(self, model: nn.Module) -> dict[str, str]:
        """How each Linear, Conv2d and Embedding is held, by name."""
        return {
            name: (self.keeps(layer) if packed_of(layer) is not None else None) or DENSE
            for name, layer in ((n, bare(m)) for n, m in layers_of(model).items())
        }


EXPORTERS: Registry[Exporter] = Registry("export target", Exporter)


def runs_in(model: nn.Module) -> dict[str, str]:
    """For each runtime, how many of the layers of a loaded model it would keep packed."""
    found = {}
    for name in EXPORTERS:
        layers = EXPORTERS.build(name).layers(model)
        packed = sum(form != DENSE for form in layers.values())
        found[name] = f"{packed} of {len(layers)} layers packed"
    return found

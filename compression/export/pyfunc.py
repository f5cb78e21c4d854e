"""MLflow models: our own packed file, served by our own code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compression.export.base import EXPORTERS, Exported, Exporter, Inputs, Source, quiet
from compression.layers import packed_of
from compression.registry import InvalidSetting

REQUIRED = ("mlflow", "numpy", "peft", "pyarrow", "safetensors", "scikit-learn", "scipy", "torch")
"""Distributions that the code imports whatever the model is."""


@EXPORTERS.register("pyfunc")
class PyFunc(Exporter):
    """A folder for ``mlflow models serve``: the packed file as it is, and the code that reads it.

    Nothing in it is pickled: the model is a safetensors file, its code a script (MLflow's models
    from code) with the packages that it imports beside it. Layers are decoded when it is loaded.
    """

    modules = ("mlflow",)

    def refusals(self, source: Source) -> Iterator[str]:
        """See :class:`Exporter`."""
        if source.loader is None:
            yield "pyfunc: nothing says how the architecture is built in another process"

    def keeps(self, layer: nn.Module) -> str | None:
        """See :class:`Exporter`: whatever the method is."""
        packed = packed_of(layer)
        return None if packed is None else packed.method.name

    def write(self, source: Source, folder: Path) -> Exported:
        """See :class:`Exporter`: a folder ``model``, which must not be there."""
        import mlflow.pyfunc

        if source.loader is None:
            raise InvalidSetting(self.refusals(source))
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        loader, target = source.loader, folder / "model"
        with quiet("mlflow"), tempfile.TemporaryDirectory() as aside:
            file = Path(aside, "model.safetensors")
            file.write_bytes(source.packed)
            mlflow.pyfunc.save_model(
                str(target),
                python_model=str(loader.script),
                artifacts={"model": str(file)},
                model_config=dict(loader.config),
                code_paths=[str(path) for path in loader.packages],
                pip_requirements=_requirements(source.model),
                signature=_signature(source),
                input_example=_arrays(source.inputs),
            )
        code = Exported(target / "code", {}).nbytes
        return Exported(target, self.layers(source.model), (f"{code} of the bytes are code",))

    def opened(self, path: Path, source: Source) -> Callable[[Inputs], Tensor]:
        """See :class:`Exporter`."""
        import mlflow.pyfunc

        with quiet("mlflow"):
            model = mlflow.pyfunc.load_model(str(path))
        return lambda inputs: torch.from_numpy(model.predict(_arrays(inputs)))


def _requirements(model: nn.Module) -> list[str]:
    """What the code needs, and what the model's own classes are from, as installed here."""
    homes = packages_distributions()
    tops = {type(module).__module__.partition(".")[0] for module in model.modules()}
    names = {*REQUIRED, *(name for top in tops for name in homes.get(top, ()))}
    return [f"{name}=={version(name)}" for name in sorted(names - {"paretune"})]


def _signature(source: Source) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    with torch.inference_mode():
        outputs = source.forward(source.model, source.inputs)
    if isinstance(source.inputs, Tensor):
        inputs = [_spec(source.inputs)]
    else:
        inputs = [_spec(tensor, name) for name, tensor in source.named.items()]
    return ModelSignature(Schema(inputs), Schema([_spec(outputs)]))


def _spec(tensor: Tensor, name: str | None = None) -> Any:
    """Type and shape of a tensor for MLflow; the number of examples is free, and that of tokens."""
    from mlflow.types import TensorSpec

    fixed = tensor.shape[1:] if tensor.is_floating_point() else [-1] * (tensor.ndim - 1)
    return TensorSpec(tensor.numpy().dtype, (-1, *fixed), name)


def _arrays(inputs: Inputs) -> Any:
    """One array, or arrays by name."""
    if isinstance(inputs, Tensor):
        return inputs.numpy()
    return {name: tensor.numpy() for name, tensor in inputs.items()}

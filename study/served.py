"""The model as MLflow serves it: run by MLflow, which puts it into every folder that it serves."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel

from compression import load
from study.plugins import PluginFile
from trainables.splits import Inputs
from trainables.tasks import TASKS


class PackedModel(PythonModel):
    """Our own packed file in the architecture of its task; outputs as the task scores them."""

    def load_context(self, context: Any) -> None:
        """Build the architecture that the folder's settings name, and load the file into it."""
        config = context.model_config
        for name, source in config["plugins"].items():
            PluginFile(name, source).load()
        self.task = TASKS.build(config["task"], config["settings"])
        self.model = load(context.artifacts["model"], self.task.architecture())

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Outputs (b, ...) for a batch: one array, or several in a dictionary.

        The hint is one that MLflow leaves alone: it checks inputs by the signature.
        """
        with torch.inference_mode():
            outputs = self.task.forward(self.model, _tensors(model_input))
        found: np.ndarray = outputs.numpy()
        return found


def _tensors(arrays: Any) -> Inputs:
    if isinstance(arrays, np.ndarray):
        return torch.from_numpy(arrays.copy())
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


mlflow.models.set_model(PackedModel())

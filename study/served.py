"""The model as MLflow serves it: run by MLflow, which puts it into every folder that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch

from compression import load
from study.plugins import PluginFile
from trainables.tasks import TASKS


class PackedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Our own packed file in the architecture of its task; outputs as the task scores them."""

    def load_context(self, context: Any) -> None:
        """Build the architecture that the folder's settings name, and load the file into it."""
        config = context.model_config
        for name, source in config["plugins"].items():
            PluginFile(name, source).load()
        self.task = TASKS.build(config["task"], config["settings"])
        self.model = load(context.artifacts["model"], self.task.architecture())

    def predict(
        self,
        context: Any,
        model_input: np.ndarray | Mapping[str, np.ndarray],
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Outputs (b, ...) for a batch: one array, or arrays by name."""
        with torch.inference_mode():
            if isinstance(model_input, np.ndarray):
                outputs = self.task.forward(self.model, torch.from_numpy(model_input.copy()))
            else:
                named = {k: torch.from_numpy(v.copy()) for k, v in model_input.items()}
                outputs = self.task.forward(self.model, named)
        found: np.ndarray = outputs.numpy()
        return found


mlflow.models.set_model(PackedModel())

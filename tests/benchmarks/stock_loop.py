"""The loop that ``machinery.py`` holds ours against: Ray Tune alone, as its manual has it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

REPORTS = 5


def space(trial: optuna.Trial) -> None:
    """A learning rate."""
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)


class Counts(tune.Trainable):
    """Counts to five."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.lr, self.count = new_config["lr"], 0
        return True

    def step(self) -> dict[str, Any]:
        self.count += 1
        done = self.count == REPORTS
        return {"accuracy": self.count * self.lr, "ratio": 1.0, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


class Clock(tune.Callback):
    """When trials began and ended."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.reports = 0

    def on_trial_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts.append(time.time())

    def on_trial_result(self, *args: Any, **kwargs: Any) -> None:
        self.reports += 1

    def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.time())


def run(trials: int, workers: int, mlflow: bool) -> dict[str, float]:
    """The loop, its files in the current folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    clock = Clock()
    callbacks: list[tune.Callback] = [clock]
    if mlflow:
        uri = f"sqlite:///{Path.cwd()}/mlflow.db"
        callbacks.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock"))
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    tune.run(
        Counts,
        search_alg=OptunaSearch(space, metric=["accuracy", "ratio"], mode=["max", "max"]),
        num_samples=trials,
        max_concurrent_trials=workers,
        reuse_actors=True,
        callbacks=callbacks,
        storage_path=str(Path.cwd() / "tune"),
        verbose=0,
    )
    ray.shutdown()
    return {
        "trials": len(clock.ends),
        "reports": clock.reports,
        "trials/s": len(clock.ends) / (max(clock.ends) - min(clock.starts)),
        "steady trials/s": (len(clock.ends) - 1) / (max(clock.ends) - min(clock.ends)),
        "MLflow complete": 0.0,
    }

"""One trial being run, without Ray: compress, recover, report, keep the best, put the file away."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from compression.artifact import serialize
from compression.model import as_saved, compression_of, trainable
from trainables.build import about, build, count_macs, measure_size
from trainables.checkpoint import State, flatten, unflatten
from trainables.recipes import RECIPES, Run
from trainables.record import Outcome, Report, Size, Status, Trial
from trainables.splits import Split
from trainables.stage import Stage, whole
from trainables.tasks.base import Forward, Prepared, Task, observe

PROBE = 16  # examples of the fixed validation batch whose logits a verification compares
PATIENCE = 1.0  # seconds of training after which a step reports in any case


class NonFiniteMetric(ArithmeticError):
    """A validation metric is NaN or infinite; the message names it and the epoch."""


class Shelf(Protocol):
    """Where artifacts are put."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Store ``data`` under ``name``: all of it or nothing."""


@torch.inference_mode()
def probe(forward: Forward, validation: Split) -> Tensor:
    """Logits of the first validation examples, (PROBE, ...) float32, in one batch."""
    first = torch.arange(min(PROBE, len(validation)))
    return forward(validation.inputs(first)).float().contiguous()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


class Attempt:
    """A trial under way. ``outcome`` is the trial's, should it end now."""

    def __init__(self, task: Task, data: Prepared, trial: Trial, shelf: Shelf) -> None:
        self.task, self.data, self.trial, self.shelf = task, data, trial, shelf
        self.trial_id = trial.trial_id(data.fingerprint)
        self.recipe = RECIPES.build(trial.recipe.name, trial.recipe.args)
        self.finished = False
        self.outcome = Outcome(Status.FAILED, error="not begun")
        self.stage: Stage | None = None
        self.run: Run | None = None
        self.curve: list[Report] = []
        self.best = -1
        self.best_params: list[Tensor] = []
        self.shelved: tuple[int, str, str] | None = None  # epoch, file hash, probe hash
        self.seconds = 0.0

    def advance(self, milestones: Sequence[int] = ()) -> list[Report]:
        """Train to the next milestone, the end, or for :data:`PATIENCE` seconds; new reports.

        An error of the trial becomes its outcome: it ends this trial and is raised no further.
        """
        before = len(self.curve)
        started = time.perf_counter()
        try:
            self._advance(milestones, started)
        except Exception as error:  # the boundary of a trial: whatever it raises is its result
            self.finished = True
            self.outcome = self._failure(error)
        return self.curve[before:]

    def _advance(self, milestones: Sequence[int], started: float) -> None:
        spent = self.seconds
        if self.stage is None:
            self._begin()
            self._report(None, spent + time.perf_counter() - started)
        while self.run is not None and self.epochs_done < self.trial.epochs:
            progress = self.run.advance()
            self.seconds = spent + time.perf_counter() - started
            self._report(progress.train_loss, self.seconds)
            if self.epochs_done in milestones or time.perf_counter() - started > PATIENCE:
                break
        self.finished = self.epochs_done == self.trial.epochs
        if self.finished or self.epochs_done in milestones:
            self._shelve()
        self.seconds = spent + time.perf_counter() - started
        self.outcome = self._outcome()

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far."""
        return self.curve[-1].epochs_done if self.curve else 0

    def _begin(self) -> None:
        model = build(self.task, self.data, self.trial)
        with as_saved(model):
            self.size: Size = measure_size(model, self.task, self.data, self.trial)
        self.macs = count_macs(model, self.task, self.data)
        self.stage = whole(self.task, model, self.data)
        if self.trial.epochs:
            self.run = self.recipe.start(self.stage, self.task, self.trial)

    def _report(self, train_loss: float | None, seconds: float) -> None:
        metrics = self._validate()
        epoch = self.epochs_done + 1 if self.curve else 0
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteMetric(f"val/{name} is {value} after epoch {epoch}")
        self.curve.append(Report(epoch, metrics, train_loss, seconds))
        if self.best < 0 or self._rank(self.curve[-1]) > self._rank(self.curve[self.best]):
            self.best = epoch
            self.best_params = [p.detach().clone() for p in self._params()]

    def _rank(self, report: Report) -> tuple[float, float]:
        """The primary metric, better first; among equals the lower loss."""
        better = -self.task.objective.loss(report.metrics[self.task.metric])
        return better, -report.metrics.get("loss", 0.0)

    def _validate(self) -> dict[str, float]:
        stage = self._stage()
        with as_saved(stage.model):
            observed = observe(self.task, stage.forward, stage.validation)
        return dict(self.task.score(observed, stage.validation.labels))

    def _shelve(self) -> None:
        """Put the best epoch's file away, unless it is there already."""
        if self.shelved and self.shelved[0] == self.best:
            return
        current = [p.detach().clone() for p in self._params()]
        self._set_params(self.best_params)
        stage = self._stage()
        with as_saved(stage.model):
            artifact = serialize(stage.model, about(self.trial))
            logits = probe(stage.forward, stage.validation)
        self._set_params(current)
        self.shelf.write_bytes(f"{self.trial_id}.safetensors", artifact)
        self.shelf.write_bytes(
            f"{self.trial_id}.probe.safetensors", safetensors.torch.save({"logits": logits})
        )
        self.shelved = (self.best, hashlib.sha256(artifact).hexdigest(), tensor_hash(logits))

    def _outcome(self) -> Outcome:
        """What is on the shelf, if anything; else the best so far, without a file."""
        epoch, sha256, probe_hash = self.shelved or (self.best, None, None)
        return Outcome(
            status=Status.COMPLETED if self.finished else Status.STOPPED,
            epochs_done=self.epochs_done,
            best_epoch=epoch,
            metrics={"val": self.curve[epoch].metrics},
            size=self.size,
            macs=self.macs,
            seconds=self.seconds,
            sha256=sha256,
            probe=probe_hash,
            curve=tuple(self.curve),
            notes=compression_of(self._stage().model).notes,
        )

    def _failure(self, error: Exception) -> Outcome:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePosixPath(frame.filename).name}:{frame.lineno}"
        return Outcome(
            status=Status.FAILED,
            epochs_done=self.epochs_done,
            seconds=self.seconds,
            curve=tuple(self.curve),
            error=f"{type(error).__name__}: {error} ({where})",
        )

    def _stage(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("the trial has not begun")
        return self.stage

    def _params(self) -> list[nn.Parameter]:
        return trainable(self._stage().model)

    @torch.no_grad()
    def _set_params(self, values: Sequence[Tensor]) -> None:
        for param, value in zip(self._params(), values, strict=True):
            param.copy_(value)

    def state(self) -> State:
        """Everything needed to go on in another process: training, curve, best epoch."""
        if self.run is None:
            return flatten({})
        return flatten(
            {
                "run": unflatten(self.run.state()),
                "curve": [
                    [r.epochs_done, dict(r.metrics), r.train_loss, r.seconds] for r in self.curve
                ],
                "best": self.best,
                "best_params": self.best_params,
                "seconds": self.seconds,
            }
        )

    def restore(self, state: State) -> None:
        """Go on from :meth:`state`; the file is written anew when the trial ends."""
        saved = unflatten(state)
        self.stage = self.run = self.shelved = None
        self.curve, self.best, self.seconds, self.finished = [], -1, 0.0, False
        if not saved:
            return
        self._begin()
        if self.run is not None:
            self.run.restore(flatten(saved["run"]))
        self.curve = [Report(*row) for row in saved["curve"]]
        self.best, self.seconds = saved["best"], saved["seconds"]
        self.best_params = list(saved["best_params"])

"""One trial being run, without Ray: compress, recover, report, keep the best, put the file away."""

from __future__ import annotations

import copy
import hashlib
import math
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import PurePosixPath

import safetensors.torch
import torch
from torch import nn

from compression.artifact import serialize
from compression.model import adapter_tensors, as_saved, compression_of
from trainables import features
from trainables.build import about, build, calibration_seconds, count_macs, measure_size
from trainables.checkpoint import CheckpointError, State, flatten, unflatten
from trainables.frozen.recall import recalling
from trainables.hardware import devices
from trainables.hardware.memory import Meter, is_out_of_memory
from trainables.probes import base_hash, probe, tensor_hash
from trainables.recipes import RECIPES, Run
from trainables.record import OUT_OF_MEMORY, Outcome, Report, Size, Status, Trial
from trainables.shelf import Shelf, ShelfError
from trainables.so_far import SoFar, holding
from trainables.stage import Stage, whole
from trainables.tasks.base import Forward, Prepared, Task, observe

PATIENCE = 1.0  # seconds of training after which a step reports in any case


class NonFiniteMetric(ArithmeticError):
    """A validation metric is NaN or infinite; the message names it and the epoch."""


class Attempt:
    """A trial under way. ``outcome`` is the trial's, should it end now.

    The model is compressed on the CPU; what is saved, and the logits it is verified by, come from
    there too. ``device`` is where it is trained and scored, which elsewhere takes a copy of it.
    """

    def __init__(
        self,
        task: Task,
        data: Prepared,
        trial: Trial,
        shelf: Shelf,
        device: torch.device = devices.CPU,
        cached: bool = True,
    ) -> None:
        self.task, self.data, self.trial, self.shelf = task, data, trial, shelf
        self.device, self.meter, self.cached = device, Meter(device), cached
        self.trial_id = trial.trial_id(data.fingerprint)
        self.recipe = RECIPES.build(trial.recipe.name, trial.recipe.args)
        self.finished = False
        self.outcome = Outcome(Status.FAILED, error="not begun")
        self.stage: Stage | None = None
        self.shipped: Stage | None = None  # on the CPU; the same one if that is the device
        self.run: Run | None = None
        self.so_far = SoFar()
        self.restored = -1  # epochs of the checkpoint that it went on from
        self._checkpoints: Sequence[State] = ()
        self._base: str | None = None
        self.refusals: list[str] = []

    def go_on(self, checkpoints: Sequence[State]) -> None:
        """Begin where the first of these that is not refused was taken by :meth:`state`.

        If all are, begin anew; ``refusals`` says why. Else the first :meth:`advance` trains
        nothing: it says where the trial stands.
        """
        self._checkpoints = checkpoints

    def advance(self, milestones: Sequence[int] = (), weighed: bool = False) -> list[Report]:
        """Train to the next milestone, the end, or for :data:`PATIENCE` seconds; new reports.

        With ``weighed`` the first time ends before any training: what it came to has no file.
        An error of the trial becomes its outcome: it ends this trial and is raised no further.

        Raises:
            ShelfError: its file could not be put away, which is no error of the trial.
        """
        before = len(self.so_far.curve)
        started = time.perf_counter()
        try:
            self._advance(milestones, started, weighed and self.stage is None)
        except ShelfError:
            raise
        except Exception as error:  # the boundary of a trial: whatever it raises is its result
            self.finished = True
            self.outcome = self._failure(error)
        return self.so_far.curve[before:]

    def _advance(self, milestones: Sequence[int], started: float, weighed: bool) -> None:
        if self._resumed():
            self.outcome = self._outcome()
            return
        so_far, spent = self.so_far, self.so_far.seconds
        if self.stage is None:
            self._begin()
            spent += calibration_seconds(self.task, self.data, self.trial)
            self._report(None, spent + time.perf_counter() - started)
        while self.run is not None and so_far.epochs_done < self.trial.epochs and not weighed:
            progress = self.run.advance()
            so_far.seconds = spent + time.perf_counter() - started
            self._report(progress.train_loss, so_far.seconds)
            if so_far.epochs_done in milestones or time.perf_counter() - started > PATIENCE:
                break
        self.finished = so_far.epochs_done == self.trial.epochs
        if self.finished or so_far.epochs_done in milestones:
            self._shelve()
        so_far.seconds = spent + time.perf_counter() - started
        self.outcome = self._outcome()

    def _begin(self) -> None:
        model = build(self.task, self.data, self.trial)
        with as_saved(model):
            self.so_far.size, self.so_far.macs = self._sizes(model)
        self.shipped = self.stage = self._staged(model)
        if self.device.type != "cpu":
            there = self._staged(copy.deepcopy(model))
            self.stage = devices.place(there, self.device, self.task.augments)
        if self.trial.epochs:
            self.run = self.recipe.start(self.stage, self.task, self.trial)

    def _sizes(self, model: nn.Module) -> tuple[Size, int]:
        """Bytes and multiply-accumulates of a model, within :func:`as_saved`."""
        size = measure_size(model, self.task, self.data, self.trial)
        return size, count_macs(model, self.task, self.data)

    def _staged(self, model: nn.Module) -> Stage:
        """The stage on cached features, with the outputs of frozen layers there in memory."""
        if not self.cached or self.recipe.whole_model:
            return whole(self.task, model, self.data)
        training, dtype = self.trial.epochs > 0, getattr(torch, self.trial.precision)
        stage = features.stage(self.task, self.data, model, training=training, dtype=dtype)
        return recalling(stage) if self.trial.epochs else stage

    def _report(self, train_loss: float | None, seconds: float) -> None:
        run, model, so_far = self.run, self._stage().model, self.so_far
        settled, resizes = (run.settled, run.resizes) if run is not None else (True, False)
        epoch = so_far.epochs_done + 1 if so_far.curve else 0
        with run.shipping() if run is not None else nullcontext():
            raw = [tensor.clone() for tensor in adapter_tensors(model)]
            with as_saved(model):
                metrics = self._validate()
                size, macs = self._sizes(model) if resizes else (so_far.size, so_far.macs)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteMetric(f"val/{name} is {value} after epoch {epoch}")
        length = size.file_bytes if resizes and size is not None else None
        so_far.curve.append(Report(epoch, metrics, train_loss, seconds, length, settled))
        if so_far.best < 0 or self._rank(so_far.curve[-1]) > self._rank(so_far.curve[so_far.best]):
            so_far.best, so_far.best_params = epoch, raw
            so_far.size, so_far.macs = size, macs

    def _rank(self, report: Report) -> tuple[bool, float, float]:
        """What has its final form, the primary metric, better first; among equals less loss."""
        better = -self.task.objective.loss(report.metrics[self.task.metric])
        return report.settled, better, -report.metrics.get("loss", 0.0)

    def _validate(self) -> dict[str, float]:
        """The scores of what would ship, and of what is trained in its place."""
        stage = self._stage()
        metrics = self._scores(stage.forward)
        blended = self.run.blended() if self.run is not None else None
        if blended is not None:
            same = blended is stage.forward
            value = (metrics if same else self._scores(blended))[self.task.metric]
            metrics[f"blended_{self.task.metric}"] = value
        return metrics

    def _scores(self, forward: Forward) -> dict[str, float]:
        validation = self._stage().validation
        return dict(self.task.score(observe(self.task, forward, validation), validation.labels))

    def _shelve(self) -> None:
        """Put the best epoch's file away, unless it is there already."""
        so_far, stage = self.so_far, self._shipped()
        if so_far.shelved and so_far.shelved.epoch == so_far.best:
            return
        with holding(stage.model, so_far.best_params), as_saved(stage.model):
            artifact = serialize(stage.model, about(self.trial))
            logits = probe(stage.forward, stage.validation)
        self.shelf.write_bytes(f"{self.trial_id}.safetensors", artifact)
        self.shelf.write_bytes(
            f"{self.trial_id}.probe.safetensors", safetensors.torch.save({"logits": logits})
        )
        sums = hashlib.sha256(artifact).hexdigest(), tensor_hash(logits)
        so_far.shelved = replace(so_far.best_without_file, sha256=sums[0], probe=sums[1])

    def _outcome(self) -> Outcome:
        """What is on the shelf, if anything; else the best so far, without a file."""
        kept = self.so_far.shelved or self.so_far.best_without_file
        return Outcome(
            status=Status.COMPLETED if self.finished else Status.STOPPED,
            epochs_done=self.so_far.epochs_done,
            best_epoch=kept.epoch,
            metrics={"val": self.so_far.curve[kept.epoch].metrics},
            size=kept.size,
            macs=kept.macs,
            seconds=self.so_far.seconds,
            peak_memory=self.meter.peak(),
            sha256=kept.sha256,
            probe=kept.probe,
            curve=tuple(self.so_far.curve),
            notes=compression_of(self._stage().model).notes,
        )

    def _failure(self, error: Exception) -> Outcome:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePosixPath(frame.filename).name}:{frame.lineno}"
        kind = OUT_OF_MEMORY if is_out_of_memory(error) else type(error).__name__
        return Outcome(
            status=Status.FAILED,
            epochs_done=self.so_far.epochs_done,
            seconds=self.so_far.seconds,
            peak_memory=self.meter.peak(),
            curve=tuple(self.so_far.curve),
            error=f"{kind}: {error} ({where})",
        )

    def drop(self) -> None:
        """Let go of model and training. What it came to, stays."""
        self.stage = self.shipped = self.run = None
        self.so_far.best_params = []

    def _stage(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("the trial has not begun")
        return self.stage

    def _shipped(self) -> Stage:
        if self.shipped is None:
            raise RuntimeError("the trial has not begun")
        return self.shipped

    def state(self) -> State:
        """Everything needed to go on in another process: training, curve, best epoch."""
        if self.run is None:
            return flatten({})
        if self._base is None:  # it takes a look at every byte of the model
            self._base = base_hash(self._shipped().model)
        return flatten(
            {
                "trial": self.trial_id,
                "epochs_done": self.so_far.epochs_done,
                "base": self._base,
                "run": unflatten(self.run.state()),
                "so_far": self.so_far.to_tree(),
            }
        )

    def _resumed(self) -> bool:
        """Whether a checkpoint could be restored; of one that could not nothing is left."""
        checkpoints, self._checkpoints = self._checkpoints, ()
        for checkpoint in checkpoints:
            try:
                self.restore(checkpoint)
            except CheckpointError as error:
                self.refusals.append(str(error))
                self.restore(flatten({}))
            else:
                self.restored = self.so_far.epochs_done
                return True
        return False

    def restore(self, state: State) -> None:
        """Go on from :meth:`state`; the best epoch's file, if it was put away, is so again.

        Raises:
            CheckpointError: it is of another trial or of another version of this program; or,
                compressed again, the model is another than the one that was trained on: calibrated
                methods round differently on another machine.
        """
        saved = unflatten(state)
        self.stage = self.shipped = self.run = self._base = None
        self.so_far, self.finished = SoFar(), False
        if not saved:
            return
        if saved.get("trial") != self.trial_id:
            raise CheckpointError(f"is of trial {saved.get('trial')}")
        self._begin()
        self._base = base_hash(self._shipped().model)
        if self._base != saved.get("base"):
            raise CheckpointError("compressed here, the model is not the one that was trained on")
        try:
            self.so_far = SoFar.from_tree(saved["so_far"])
            if self.run is not None:
                self.run.restore(flatten(saved["run"]))
            with holding(self._shipped().model, self.so_far.best_params):
                pass  # they fit
        except Exception as error:  # whatever a plugin raises of a state that it does not know
            if is_out_of_memory(error) or isinstance(error, CheckpointError):
                raise
            kind = type(error).__name__
            raise CheckpointError(
                f"is of another version of this program: {kind}: {error}"
            ) from error
        if (shelved := self.so_far.shelved) and shelved.epoch == self.so_far.best:
            self.so_far.shelved = None
            self._shelve()

"""The loop that recipes share: an adapter trained on a stage, epoch by epoch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from compression.model import trainable
from trainables.checkpoint import State, flatten, unflatten
from trainables.distillation import Distillation
from trainables.hardware.compiling import Raced
from trainables.hardware.devices import CPU, autocast, scaler
from trainables.hardware.sending import send_tensor
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS
from trainables.recipes.base import NonFiniteLoss, Progress, Run
from trainables.record import Trial
from trainables.splits import Inputs
from trainables.stage import Stage
from trainables.tasks.base import Task


class Lesson(NamedTuple):
    """What is learnt from: ``w`` of the task's loss and ``1 - w`` of the dense model's features."""

    task_weight: float = 1.0
    distillation: Distillation | None = None


class Training(Run):
    """The training of one adapter by ``w L_task + (1 - w) L_features``."""

    def __init__(self, stage: Stage, task: Task, trial: Trial, lesson: Lesson) -> None:
        self.stage, self.task, self.trial, self.lesson = stage, task, trial, lesson
        self.params = trainable(stage.model)
        self.loss = task.training_loss(stage.train.labels)
        plugin = OPTIMIZERS.build(trial.optimizer.name, trial.optimizer.args)
        self.optimizer = plugin.build(self.params, trial.lr)
        schedule = LR_SCHEDULES.build(trial.lr_schedule.name, trial.lr_schedule.args)
        self.factor = schedule.factor
        # On the CPU, as everything that is drawn: one order of the data on every device.
        self.generator = torch.Generator().manual_seed(trial.seed)
        self.device = self.params[0].device if self.params else CPU
        self.scaler = scaler(self.device, trial.precision)
        self.epochs_done = self.steps = 0
        self.total_steps = trial.epochs * math.ceil(len(stage.train) / trial.batch_size)
        self.forward = Raced(stage.forward, self.device, self.total_steps)

    def changed(self) -> AbstractContextManager[None]:
        """Within it the model computes what is trained at this step: as it is, by default."""
        return nullcontext()

    def step_loss(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        weight, distillation = self.lesson
        if distillation is None:
            with self.changed():
                return self._task_loss(self.forward(inputs), labels)
        with self.changed(), distillation.watching() as seen:
            outputs = self.stage.forward(inputs)
        features = (1 - weight) * distillation.loss(inputs, outputs, labels, seen)
        return features + weight * self._task_loss(outputs, labels) if weight else features

    def _task_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(outputs, send_tensor(labels, outputs.device))

    def advance(self) -> Progress:
        """See :class:`Run`."""
        losses = []
        for batch in self.stage.train.batches(self.trial.batch_size, self.generator):
            for group in self.optimizer.param_groups:
                group["lr"] = self.trial.lr * self.factor(self.steps / self.total_steps)
            inputs = batch.inputs
            if self.stage.own_inputs:
                inputs = self.task.augment(inputs, self.generator)
            with autocast(self.device, self.trial.precision):
                loss = self.step_loss(inputs, batch.labels)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.lesson.distillation is None:  # else it is not called
                self.forward.step()
            self.steps += 1
            losses.append(loss.detach())
        # Looked at once an epoch: reading every loss would make the device wait at every step.
        curve = torch.stack(losses)
        if not bool(curve.isfinite().all()):
            step = int((~curve.isfinite()).nonzero()[0])
            raise NonFiniteLoss(
                f"the loss is {curve[step].item()} at step {step + 1} of epoch "
                f"{self.epochs_done + 1} ({self.trial.optimizer}, lr {self.trial.lr:g})"
            )
        self.epochs_done += 1
        return Progress(self.epochs_done, curve.mean().item())

    def state(self) -> State:
        """See :class:`Run`: adapter, optimizer, order of the data, position."""
        return flatten(
            {
                "adapter": [p.detach() for p in self.params],
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "generator": self.generator.get_state(),
                "epochs_done": self.epochs_done,
                "steps": self.steps,
            }
        )

    def restore(self, state: State) -> None:
        """See :class:`Run`."""
        saved = unflatten(state)
        with torch.no_grad():
            for param, value in zip(self.params, saved["adapter"], strict=True):
                param.copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # nothing in it where nothing is scaled
            self.scaler.load_state_dict(saved["scaler"])
        self.generator.set_state(saved["generator"])
        self.epochs_done, self.steps = saved["epochs_done"], saved["steps"]

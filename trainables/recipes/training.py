"""The loop that recipes share: an adapter trained on a stage, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compression.acting import Acting, Moment
from compression.model import adapter_tensors, compression_of, trainable
from trainables.checkpoint import State, flatten, refill, unflatten
from trainables.distillation import Distillation
from trainables.hardware.compiling import Raced
from trainables.hardware.devices import CPU, autocast, scaler
from trainables.hardware.sending import send_tensor
from trainables.hooks import HOOKS, Scene
from trainables.losses import Lessons, losses_of
from trainables.lr_schedules import LR_SCHEDULES
from trainables.optimizers import OPTIMIZERS
from trainables.recipes.base import NonFiniteLoss, Progress, Run
from trainables.record import Trial
from trainables.splits import Batch, Inputs
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
        self.device = self.params[0].device if self.params else CPU
        own = task.training_loss(stage.train.labels)
        self.loss = losses_of(
            trial.losses,
            lambda inputs, outputs, labels: own(outputs, labels),
            Lessons(task, stage, self.device),
        )
        plugin = OPTIMIZERS.build(trial.optimizer.name, trial.optimizer.args)
        adapted = compression_of(stage.model).adapted().items()
        pairs = [p for adapter, names in adapted for p in adapter.pairs(stage.model, names)]
        self.optimizer = plugin.build(self.params, trial.lr, pairs)
        self.acting: list[Acting] = []
        self._begin_acting()
        schedule = LR_SCHEDULES.build(trial.lr_schedule.name, trial.lr_schedule.args)
        self.factor = schedule.factor
        # On the CPU, as everything that is drawn: one order of the data on every device.
        self.generator = torch.Generator().manual_seed(trial.seed)
        self.scaler = scaler(self.device, trial.precision)
        self.epochs_done = self.steps = 0
        self.total_steps = trial.epochs * math.ceil(len(stage.train) / trial.batch_size)
        # What changes from step to step would be compiled anew each time.
        raced = CPU if any(one.rewires for one in self.acting) else self.device
        self.forward = Raced(stage.forward, raced, self.total_steps)

    def _begin_acting(self) -> None:
        """What acts at each step: adapters of themselves, then the trial's hooks in their order."""
        done, model, trial = compression_of(self.stage.model), self.stage.model, self.trial
        for adapter, names in done.adapted().items():
            if (found := adapter.acting(model, names, trial.seed)) is not None:
                self.acting.append(found)
        adapted = {name: entry for name, entry in done.layers.items() if entry.adapted}
        for choice in trial.hooks:
            scene = Scene(
                model, adapted, self.params, self.optimizer, trial.seed, tuple(self.acting)
            )
            if (found := HOOKS.build(choice.name, choice.args).start(scene)) is not None:
                self.acting.append(found)

    @property
    def moment(self) -> Moment:
        """Where the training stands."""
        share = self.steps / self.total_steps
        return Moment(self.steps, self.total_steps, self.trial.lr * self.factor(share))

    @property
    def settled(self) -> bool:
        """See :class:`Run`."""
        return all(one.settled(self.moment) for one in self.acting)

    @property
    def resizes(self) -> bool:
        """See :class:`Run`."""
        return any(one.resizes for one in self.acting)

    @contextmanager
    def shipping(self) -> Iterator[None]:
        """See :class:`Run`: averages in the place of what is averaged, by optimizers and hooks."""
        optimizer: Any = self.optimizer
        with ExitStack() as stack:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
                stack.callback(optimizer.train)
            for one in self.acting:
                stack.enter_context(one.shipping())
            yield

    def changed(self) -> AbstractContextManager[None]:
        """Within it the model computes what is trained at this step: as it is, by default."""
        return nullcontext()

    def step_loss(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        weight, distillation = self.lesson
        if distillation is None:
            with self.changed():
                return self._task_loss(inputs, self.forward(inputs), labels)
        with self.changed(), distillation.watching() as seen:
            outputs = self.stage.forward(inputs)
        features = (1 - weight) * distillation.loss(inputs, outputs, labels, seen)
        if not weight:
            return features
        return features + weight * self._task_loss(inputs, outputs, labels)

    def _task_loss(self, inputs: Inputs, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(inputs, outputs, send_tensor(labels, outputs.device))

    def _step(self, batch: Batch) -> Tensor:
        """One step of the optimizer; the loss, without penalties."""
        moment = self.moment
        for group in self.optimizer.param_groups:
            group["lr"] = moment.lr * group.get("lr_ratio", 1.0)
        for one in self.acting:
            one.before_step(moment)
        inputs = batch.inputs
        if self.stage.own_inputs:
            inputs = self.task.augment(inputs, self.generator)
        with autocast(self.device, self.trial.precision):
            loss = self.step_loss(inputs, batch.labels)
        penalties = [p for one in self.acting if (p := one.penalty()) is not None]
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(penalties, loss)).backward()  # type: ignore[no-untyped-call]
        for one in self.acting if self._finite() else ():
            one.after_backward(moment)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for one in self.acting:
            one.after_step(moment)
        if self.lesson.distillation is None:  # else it is not called
            self.forward.step()
        self.steps += 1
        return loss.detach()

    def _finite(self) -> bool:
        """Whether the step will be made: with scaled gradients one that overflows is left out."""
        if not (self.acting and self.scaler.is_enabled()):
            return True
        self.scaler.unscale_(self.optimizer)
        grads = [p.grad for p in self.params if p.grad is not None]
        return all(bool(torch.isfinite(grad).all()) for grad in grads)

    def advance(self) -> Progress:
        """See :class:`Run`."""
        batches = self.stage.train.batches(self.trial.batch_size, self.generator)
        losses = [self._step(batch) for batch in batches]
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
        """See :class:`Run`: adapter, what acts on it, optimizer, order of the data, position."""
        return flatten(
            {
                "adapter": adapter_tensors(self.stage.model),
                "acting": [one.state() for one in self.acting],
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
            tensors = adapter_tensors(self.stage.model)
            for tensor, value in zip(tensors, saved["adapter"], strict=True):
                refill(tensor, value)
        for one, kept in zip(self.acting, saved["acting"], strict=True):
            one.restore(kept)
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # nothing in it where nothing is scaled
            self.scaler.load_state_dict(saved["scaler"])
        self.generator.set_state(saved["generator"])
        self.epochs_done, self.steps = saved["epochs_done"], saved["steps"]

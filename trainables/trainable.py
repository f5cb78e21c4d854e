"""The Ray Tune trainable: one trial from compression to its last report. The one file with Ray.

A worker lives through many trials (``reuse_actors``). The dense model and the data come once, and
stand in memory once for all workers of a machine, in Ray's object store. One Tune step trains up to
the next epoch at which the trial may be stopped, or for a second, so that the machinery costs
little where epochs are short; every epoch is reported all the same.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.util import deregister_serializer, register_serializer
from torch import Tensor, nn

from trainables.attempt import Attempt
from trainables.checkpoint import State
from trainables.checkpoints import Checkpoints, Store
from trainables.frozen.shared_features import SharedShelf, share
from trainables.hardware.allocator import keep_freed_memory
from trainables.hardware.devices import limit_threads, pick
from trainables.hardware.memory import release
from trainables.hardware.peak import measure
from trainables.hardware.sharing import put_together, take_apart
from trainables.record import Trial, from_json, to_json
from trainables.shelf import Shelf, ShelfError
from trainables.tasks.base import Prepared, Task

PATIENCE = 20.0
"""Seconds that a worker waits for the others: several times what one takes to start."""


class Loadable(Protocol):
    """Something that registers a user's plugins when loaded."""

    def load(self) -> None:
        """Register them, once in a process."""


@dataclass(frozen=True)
class Context:
    """What all trials of a study share.

    ``milestones`` are the epochs at which a trial may be stopped; there, and at its end, its
    artifact is put on the ``shelf``. A trial computes with so many ``threads``, and on features
    unless ``cached`` says that these can't be kept. ``weighed`` says that it may be stopped for its
    size, too, before it trains. Its state goes into ``checkpoints``, where there is such a store,
    at most once in so many seconds. ``features`` is where machines share what no trial changes.
    """

    task: Task
    data: Prepared
    shelf: Shelf
    milestones: tuple[int, ...] = ()
    threads: int = 1
    cached: bool = True
    weighed: bool = False
    checkpoints: Store | None = None
    checkpoint_seconds: float = 5.0
    features: SharedShelf | None = None


@dataclass(frozen=True)
class Shared:
    """A context in Ray's object store, and the plugins without which it can't be read there.

    ``context`` holds one reference: a bare one would be fetched, and unpickled, before the
    plugins that define its task are loaded.
    """

    plugins: Sequence[Loadable]
    context: tuple[ray.ObjectRef[Context]]

    @staticmethod
    def put(context: Context, plugins: Sequence[Loadable]) -> Shared:
        """A context in the object store, its tensors as arrays that workers map."""
        kinds = (Tensor, nn.Parameter)
        for kind in kinds:
            register_serializer(kind, serializer=take_apart, deserializer=put_together)
        try:
            return Shared(plugins, (ray.put(context),))
        finally:
            for kind in kinds:
                deregister_serializer(kind)

    def fetch(self) -> Context:
        """The context, in a process that is made ready for trials."""
        importlib.import_module("peft")  # takes seconds, which are not the first trial's
        for plugin in self.plugins:
            plugin.load()
        keep_freed_memory()
        context: Context = ray.get(self.context[0])
        share(context.features)
        limit_threads(context.threads)
        return context


def measure_peak(shared: Shared, trial: str) -> dict[str, Any]:
    """The fields of a trial's :class:`~trainables.hardware.peak.Peak` on this worker's card."""
    context = shared.fetch()
    return vars(measure(context.task, context.data, from_json(Trial, json.loads(trial))))


class Door:
    """Where workers wait until all are there. An actor of its own.

    A trial that ends while another one's worker is still being started hands its worker on to that
    trial, and Tune kills the one that was on its way: where trials are shorter than a worker's
    start, only one worker would ever run.
    """

    def __init__(self, workers: int) -> None:
        self.missing = workers

    def arrive(self) -> None:
        """A worker is ready."""
        self.missing -= 1

    def is_open(self) -> bool:
        """Whether all workers are."""
        return self.missing <= 0


class CompressionTrial(tune.Trainable):
    """Runs one trial of a study; see the module."""

    def setup(
        self,
        config: Mapping[str, Any],
        shared: Shared | None = None,
        device: str = "cpu",
        door: ray.actor.ActorHandle[Door] | None = None,
    ) -> None:
        """Once in a worker's life; :meth:`reset_config` for the trials after the first."""
        if shared is None:
            raise ValueError("CompressionTrial needs its context: use tune.with_parameters")
        self.context = shared.fetch()
        self.door = door
        if door is not None:
            door.arrive.remote()
        self.device = pick(device)
        store, every = self.context.checkpoints, self.context.checkpoint_seconds
        self.checkpoints = None if store is None else Checkpoints(store, every)
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Take up another trial: from its checkpoint, if the config says that it was begun."""
        trial, shared = from_json(Trial, json.loads(new_config["trial"])), self.context
        until = new_config.get("until")  # where one is to end that the scheduler does not judge
        self.milestones = (*shared.milestones, *(() if until is None else (until,)))
        self.attempt = Attempt(
            shared.task, shared.data, trial, shared.shelf, self.device, shared.cached
        )
        if self.checkpoints is not None:
            self.checkpoints.begin(self.attempt.trial_id)
            if new_config.get("begun"):
                self.attempt.go_on(self.checkpoints.find())
        return True

    def step(self) -> dict[str, Any]:
        """Train on to where the trial may be stopped, and say what came out.

        ``reports`` are the epochs since the last step, ``outcome`` is the trial's, should it end
        here. An error ends this trial, not the worker. The first step of a trial that goes on from
        a checkpoint reports all that was ``restored``: so many epochs. ``trouble`` is why a file
        could not be put away: the trial ends here without an outcome. ``remarks`` are for people.
        """
        self._wait()
        try:
            reports = self.attempt.advance(self.milestones, self.context.weighed)
        except ShelfError as error:
            self._let_go()
            return {"epochs_done": 0, "trouble": str(error), "done": True}
        restored, self.attempt.restored = self.attempt.restored, -1
        outcome = self.attempt.outcome
        if self.attempt.finished:  # a worker that waits for its next trial holds nothing
            self._let_go()
        elif self.checkpoints is not None and restored < 0:
            self.checkpoints.keep(self.attempt.state)
        return {
            "epochs_done": outcome.epochs_done,
            "reports": json.dumps(to_json(reports)),
            "outcome": json.dumps(to_json(outcome)),
            "restored": restored,
            "remarks": json.dumps(self._remarks()),
            "done": self.attempt.finished,
        }

    def _let_go(self) -> None:
        self.attempt.drop()
        release()

    def _remarks(self) -> list[str]:
        """What was not said yet about checkpoints."""
        found = [f"its checkpoint {text}" for text in self.attempt.refusals]
        self.attempt.refusals.clear()
        if self.checkpoints is not None:
            found += self.checkpoints.remarks
            self.checkpoints.remarks = []
        return found

    def _wait(self) -> None:
        """Before a worker's first trial: until the others are ready, or have had time to be."""
        deadline = time.monotonic() + PATIENCE
        while self.door is not None and time.monotonic() < deadline:
            try:
                if ray.get(self.door.is_open.remote()):
                    break
            except ray.exceptions.RayActorError:  # it went away with its machine
                break
            time.sleep(0.05)
        self.door = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The training's state, as safetensors and JSON."""
        Path(checkpoint_dir, "state.safetensors").write_bytes(self.attempt.state().to_bytes())

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """The inverse of :meth:`save_checkpoint`."""
        data = Path(checkpoint, "state.safetensors").read_bytes()
        self.attempt.restore(State.from_bytes(data))

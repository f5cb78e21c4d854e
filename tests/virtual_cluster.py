"""A cluster in virtual time: nodes that come and go, trials that take random durations on them.

The driver and whatever it is given are real; what a trial comes to is made up
(:mod:`fake_runner`). Results travel as those of the real trainable: the reports up to the next
epoch at which the trial may be stopped, together.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fake_runner import FakeRunner, Running

from study.events import Cause
from study.loop.driver import FINISHED
from study.loop.retries import Loss

GONE = Loss(Cause.NODE, "The node was terminated: it was a spot machine")


@dataclass(frozen=True)
class Machines:
    """``nodes`` run ``per_node`` trials each, side by side.

    A node is lost after ``lives`` on average and away for ``away``, in units of the mean epoch.
    """

    nodes: int = 10
    per_node: int = 10
    lives: float = 100.0
    away: float = 3.0

    @property
    def places(self) -> int:
        """Trials at once while no node is away."""
        return self.nodes * self.per_node


@dataclass
class _Node:
    trials: dict[str, Running] = field(default_factory=dict)
    pace: dict[str, float] = field(default_factory=dict)  # of a trial's epoch


class VirtualCluster:
    """Runs the trials of a driver on machines that work in virtual time."""

    def __init__(
        self,
        runner: FakeRunner,
        machines: Machines,
        seed: int = 0,
        cost: Callable[[int], float] = lambda started: 1.0,
        look: Callable[[float], None] = lambda now: None,
    ) -> None:
        """``cost`` is that of an epoch of the so-manieth trial; ``look`` is called as time goes."""
        self.runner, self.machines = runner, machines
        self.cost, self.look = cost, look
        self.now, self.lost, self.most_at_once = 0.0, 0, 0
        self._random = random.Random(seed)
        self._nodes = [_Node() for _ in range(machines.nodes)]
        self._free = [node for node in self._nodes for _ in range(machines.per_node)]
        self._random.shuffle(self._free)
        self._running = self._started = self._order = 0
        # What happens next: when, in which order, what.
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for node in self._nodes:
            self._after(self._random.expovariate(1 / machines.lives), lambda n=node: self._lose(n))

    def run(self) -> VirtualCluster:
        """Until the driver has no more."""
        while not self._fill() or self._running:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self.look(self.now)
        return self

    def _after(self, wait: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + wait, self._order, event))

    def _fill(self) -> bool:
        """Give free places something to do; whether the driver has no more."""
        while self._free:
            tune_id = f"t{self._started}"
            config = self.runner.driver.next(tune_id)
            if config is None or config == FINISHED:
                return config == FINISHED
            self._started += 1
            node = self._free.pop()
            node.trials[tune_id] = self.runner.began(config)
            node.pace[tune_id] = self.cost(self._started) * self._random.lognormvariate(0.0, 0.5)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self._train(node, tune_id)
        return False

    def _train(self, node: _Node, tune_id: str) -> None:
        one, done = node.trials[tune_id], node.trials[tune_id].done
        epochs = max(1, self.runner.next_stop(one) - done)
        self._after(epochs * node.pace[tune_id], lambda: self._report(node, tune_id))

    def _report(self, node: _Node, tune_id: str) -> None:
        if tune_id not in node.trials:  # it was lost with its node
            return
        if self.runner.step(tune_id, node.trials[tune_id], self._running - 1):
            self._train(node, tune_id)
        else:
            self._forget(node, tune_id)
            self._free.append(node)

    def _forget(self, node: _Node, tune_id: str) -> None:
        del node.trials[tune_id], node.pace[tune_id]
        self._running -= 1

    def _lose(self, node: _Node) -> None:
        """The node vanishes with its trials, and comes back."""
        self._free = [other for other in self._free if other is not node]
        for tune_id in list(node.trials):
            self._forget(node, tune_id)
            self.lost += 1
            self.runner.driver.on_lost(tune_id, GONE)
        self._after(self._random.expovariate(1 / self.machines.away), lambda: self._back(node))

    def _back(self, node: _Node) -> None:
        self._free += [node] * self.machines.per_node
        self._after(self._random.expovariate(1 / self.machines.lives), lambda: self._lose(node))

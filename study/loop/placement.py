"""What a trial gets of the machines, and so how many trials run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compression.registry import InvalidSetting
from study.fields.sections import Resources
from study.space.baselines import Typical
from study.space.space import Space
from trainables.hardware.peak import Peak
from trainables.record import NONE, Scalar, Trial

LEFT_FREE = 0.05  # of a card: what fragmentation and other steps' shapes may take
_GRAIN = 10_000  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: what Ray may hand out there, memory in bytes."""

    cpus: float
    gpus: float = 0.0
    memory: float = float("inf")
    card: str = ""


@dataclass(frozen=True)
class Placement:
    """What each trial gets, and what all of them share.

    ``card`` names the kind of GPU, ``memory`` is that of the machines in bytes where trials run on
    CPUs. ``remarks`` say what holds the number of trials down.
    """

    cpus: int
    gpus: float
    concurrency: int
    card: str = ""
    memory: float = float("inf")
    remarks: tuple[str, ...] = ()

    @property
    def resources(self) -> dict[str, float]:
        """As Tune takes them."""
        gpus = {"gpu": self.gpus} if self.gpus else {}
        return {"cpu": float(self.cpus), **gpus}

    @property
    def device(self) -> str:
        """Where trials compute, by torch's name."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        """As records name it, after the kind of processor: ``cpu, 1 thread``."""
        where = f"cuda, {self.gpus:g} {self.card or 'GPU'}" if self.gpus else "cpu"
        return f"{where}, {self.cpus} thread{'s' if self.cpus > 1 else ''}"


def place(
    resources: Resources,
    concurrency: int | Literal["auto"],
    nodes: Sequence[Node],
    measure: Callable[[], Peak],
) -> Placement:
    """Share the machines out.

    Args:
        resources: of one trial.
        concurrency: trials at once; ``auto`` for all that fit.
        nodes: the machines.
        measure: a training step on a card, for ``auto`` GPUs where there are cards.

    Raises:
        InvalidSetting: no machine has what one trial is to get.
    """
    remarks: list[str] = []
    gpus = resources.gpus
    if gpus == "auto":
        gpus = _share(measure(), remarks) if any(node.gpus for node in nodes) else 0.0
    fits = sum(_fit(node, resources.cpus, gpus) for node in nodes)
    if not fits:
        raise InvalidSetting([_too_much(resources.cpus, gpus, nodes)])
    if concurrency != "auto" and concurrency > fits:
        remarks.append(f"room for {fits} trials at once, not {concurrency}")
    return Placement(
        resources.cpus,
        gpus,
        fits if concurrency == "auto" else min(concurrency, fits),
        next((node.card for node in nodes if node.card), "") if gpus else "",
        float("inf") if gpus else sum(node.memory for node in nodes),
        tuple(remarks),
    )


def _share(peak: Peak, remarks: list[str]) -> float:
    """The share of a card for which a trial's peak is small enough."""
    if peak.error:
        remarks.append(f"a card for each trial: no training step was measured ({peak.error})")
        return 1.0
    together = max(1, int((1 - LEFT_FREE) * peak.total // peak.taken))
    remarks.append(
        f"{together} trial{'s' if together > 1 else ''} to a card: one takes "
        f"{peak.taken / 1e9:.2g} of {peak.total / 1e9:.3g} GB"
    )
    return int(_GRAIN / together) / _GRAIN


def _fit(node: Node, cpus: int, gpus: float) -> int:
    """Trials that a machine has room for. Ray takes a fraction from one card, not from two."""
    fits = node.cpus // cpus
    if gpus:
        # As Ray counts, in whole ten-thousandths.
        grains = round(gpus * _GRAIN)
        cards = node.gpus // gpus if gpus >= 1 else node.gpus * (_GRAIN // grains)
        fits = min(fits, cards)
    return int(fits)


def _too_much(cpus: int, gpus: float, nodes: Sequence[Node]) -> str:
    def counted(cpus: float, gpus: float) -> str:
        return f"{cpus:g} CPU{'s' * (cpus != 1)} and {gpus:g} GPU{'s' * (gpus != 1)}"

    has = "; ".join(dict.fromkeys(counted(n.cpus, n.gpus) for n in nodes)) or "nothing"
    return f"resources: a trial is to get {counted(cpus, gpus)} on one machine; there: {has}"


class Room:
    """How many trials memory has room for, by the largest that ended so far.

    On the CPU nobody is measured beforehand: the baselines run first, and one of them trains the
    largest adapter.
    """

    def __init__(self, concurrency: int, memory: float, say: Callable[[str], None]) -> None:
        self.limit = concurrency
        self._memory, self._say = memory, say

    def take(self, peak: int | None) -> None:
        """A trial ended that took so many bytes at most."""
        if not peak or self._memory >= peak * self.limit:  # it may be infinite: nobody knows it
            return
        fits = max(1, int(self._memory // peak))
        if fits < self.limit:
            self.limit = fits
            self._say(
                f"memory for {fits} trial{'s' if fits > 1 else ''} at once: one took "
                f"{peak / 1e9:.2g} of {self._memory / 1e9:.3g} GB"
            )


def nodes_of(found: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The living machines among what ``ray.nodes()`` says."""
    prefix = "accelerator_type:"
    nodes = []
    for node in found:
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            cards = [k.removeprefix(prefix) for k in has if k.startswith(prefix)]
            memory = has.get("memory", float("inf"))
            nodes.append(Node(has["CPU"], has.get("GPU", 0.0), memory, "".join(cards[:1])))
    return nodes


def largest(space: Space, seed: int) -> Trial:
    """The trial of a space that takes the most memory, as far as its settings tell."""
    return space.to_trial(space.define(_Most({})), seed)


class _Most(Typical):
    """The largest of some numbers, and the last of some names but ``none``."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Scalar:
        if all(type(choice) in (int, float) for choice in choices):
            return max(choices)  # type: ignore[no-any-return]
        named = [choice for choice in choices if choice != NONE.name]
        return (named or list(choices))[-1]  # type: ignore[no-any-return]

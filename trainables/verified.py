"""A saved model scored on test and held against baselines there. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from trainables.measured import check_metrics
from trainables.serial import plain_float, require

COUNTED = ("accuracy", "agreement")
"""Metrics that are the share of right examples: :class:`Paired` tells all of a drop in them."""


@dataclass(frozen=True)
class Paired:
    """Two models on the same ``n`` examples: how often only one of them is right."""

    n: int
    only_reference: int
    only_model: int
    flips: int = 0

    def __post_init__(self) -> None:
        """The counts fit in n."""
        require(self.n > 0, "Paired.n: must be above 0")
        require(
            0 <= self.only_reference + self.only_model <= self.n,
            "Paired: more disagreements than examples",
        )

    @property
    def drop(self) -> float:
        """Accuracy of the reference minus that of the model, a fraction."""
        return (self.only_reference - self.only_model) / self.n


@dataclass(frozen=True)
class Bounds:
    """An estimate between its one-sided 95% bounds."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Finite numbers, the bounds in order."""
        for f in fields(self):
            plain_float(getattr(self, f.name), f"Bounds.{f.name}")
        require(self.low <= self.high, "Bounds: low is above high")


@dataclass(frozen=True)
class Drop:
    """How much worse a model is than a reference on the same ``n`` examples; positive is worse.

    ``absolute`` is in the units of ``metric``, whichever way that is better; ``relative`` is a
    share of the reference's value, None for fractions. ``method`` says how the bounds were made.
    ``groups`` is how many groups of alike examples there are, None where examples are independent.
    """

    metric: str
    n: int
    absolute: Bounds
    relative: Bounds | None = None
    method: str = ""
    groups: int | None = None

    def __post_init__(self) -> None:
        """There are examples, and no group without one."""
        require(self.n > 0, "Drop.n: must be above 0")
        require(
            self.groups is None or 0 < self.groups <= self.n,
            f"Drop.groups: expected 1 to {self.n}, one a group at least, got {self.groups}",
        )


@dataclass(frozen=True)
class Verification:
    """A point loaded from its file in a fresh process and scored on test. Never edits a Record.

    ``paired`` holds the comparison with each baseline on the same test examples where these are
    right or wrong, ``drops`` that of a primary metric where pairs don't tell how sure a drop is: it
    is no share of right examples (not in :data:`COUNTED`), or these come in groups of alike ones.
    ``on_validation`` is ``paired`` of the validation examples, which orders points before test.
    ``problems`` is empty when file, bytes, logits and metric agree with the record.
    ``logits_agreement`` is ``1e-5`` at best where a trial computed on cached features. ``runs_in``
    says for each other runtime how many layers it would keep packed.
    """

    trial_id: str
    sha256: str
    file_bytes: int
    metrics: Mapping[str, float]
    paired: Mapping[str, Paired] = field(default_factory=dict)
    latency_ms: float | None = None
    resident_bytes: int | None = None
    seeds: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    logits_agreement: str = "bitwise"
    device: str = ""
    at: str = ""
    drops: Mapping[str, Drop] = field(default_factory=dict)
    runs_in: Mapping[str, str] = field(default_factory=dict)
    on_validation: Mapping[str, Paired] = field(default_factory=dict)

    AGREEMENTS: ClassVar[tuple[str, ...]] = ("bitwise", "1e-5", "none")

    def __post_init__(self) -> None:
        """Every number is finite."""
        check_metrics(self.metrics, "Verification.metrics")
        require(
            self.logits_agreement in self.AGREEMENTS,
            f"Verification.logits_agreement: expected one of {self.AGREEMENTS}",
        )

    @property
    def verified(self) -> bool:
        """Whether everything agreed."""
        return not self.problems

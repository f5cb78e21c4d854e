"""What charts read of a study's trials: the metric, and the names by which trials are grouped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from analysis import units
from analysis.charts.chart import Scale
from analysis.columns import metric, setting
from analysis.findings import SEARCHED, Findings
from analysis.load import Row
from trainables.record import Direction, LayerRule, Objective, Trial

__all__ = ["SEARCH", "Tried", "grouped", "metric_scale", "tried"]

SEARCH = ("search",)
T = TypeVar("T")


@dataclass(frozen=True)
class Tried:
    """A trial that has the metric: ``value``, in its own units."""

    row: Row
    value: float

    @property
    def method(self) -> str:
        """All its methods: ``n_m > rtn``; of several rules with differing ones ``rtn; svd``."""
        return _each([" > ".join(m.name for m in rule.methods) for rule in self._rules])

    @property
    def init(self) -> str:
        """What its adapters start at; empty without any."""
        return _each([rule.init.name for rule in self._rules if rule.adapter.name != "none"])

    @property
    def rank(self) -> int:
        """The largest of its adapters' ranks, 0 without any."""
        return max(rule.rank for rule in self._rules)

    @property
    def trial_id(self) -> str:
        """Its record's."""
        return self.row.record.trial_id

    @property
    def text(self) -> str:
        """Its number and whole setting."""
        return f"trial {self.row.number}: {setting(self.row)}"

    @property
    def config(self) -> Hashable:
        """What runs with other seeds have in common."""
        return seedless(self.row.record.trial)

    @property
    def _rules(self) -> Sequence[LayerRule]:
        return self.row.record.trial.layers


def seedless(trial: Trial) -> Hashable:
    """A trial but for its seed, as a key: :meth:`Trial.config_id` hashes JSON, which is slow."""
    return tuple(value for name, value in vars(trial).items() if name != "seed")


def tried(found: Findings, roles: Sequence[str] = SEARCHED) -> list[Tried]:
    """The trials of these roles that have the metric of a report, stopped ones as they are."""
    pairs = [(row, metric(row, found.y.name)) for row in found.study.rows if row.role in roles]
    return [Tried(row, value) for row, value in pairs if value is not None]


def _each(names: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(names))


def grouped(pairs: Iterable[tuple[str, T]]) -> Mapping[str, list[T]]:
    """By a name, in the order of the names."""
    groups: dict[str, list[T]] = defaultdict(list)
    for name, one in pairs:
        groups[name].append(one)
    return dict(sorted(groups.items()))


def metric_scale(y: Objective) -> Scale:
    """The axis of the metric; better is up."""
    turned = y.direction is Direction.MINIMIZE
    return Scale(units.label(y), percent=y.is_fraction, reversed=turned)

"""What is done to which layer: structure edits first, then a method for each layer that is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from compression.adapters import NoAdapter
from compression.calibration import Calibration
from compression.collecting import collect
from compression.edits import Edit
from compression.kinds import kind_of
from compression.methods import Method, Plan
from compression.methods.base import Scene
from compression.one_layer import put
from compression.rules import Rule, layers_of
from compression.stats import LayerStats, Need


@dataclass
class Planning:
    """The layers of each rule, ``layers`` of them still there, and what is decided so far.

    ``stats`` are of the model as its structure is now.
    """

    model: nn.Module
    assigned: Mapping[Rule, Sequence[str]]
    layers: dict[str, nn.Module]
    stats: Mapping[str, LayerStats] | None = None
    calibration: Calibration | None = None
    edits: tuple[Edit, ...] = ()
    notes: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Method]:
        """The method of each layer of a rule, after the structure edits of all rules.

        The first structural methods of all rules look at the dense model, each later one at what
        those before it left; the others at what all structural ones left.
        """
        for round_ in range(max((len(rule.structural) for rule in self.assigned), default=0)):
            methods = {r: r.structural[round_] for r in self.assigned if r.structural[round_:]}
            self._collect({rule: method.needs for rule, method in methods.items()})
            self._plan(methods)
            if self.calibration:  # layers see other inputs now
                self.stats = None
        self._collect({rule: rule.kept.needs | rule.init_needs for rule in self.assigned})
        plans = self._plan({rule: rule.kept for rule in self.assigned})
        return {name: spec for plan in plans for name, spec in plan.specs.items()}

    def _collect(self, needs: Mapping[Rule, frozenset[Need]]) -> None:
        """Statistics that are not there, of each rule's own layers."""
        if self.stats is not None:
            return
        found: dict[str, LayerStats] = {}
        for rule, wanted in needs.items():
            if wanted and self.calibration:
                names = self._of(rule)
                found |= collect(self.model, names, wanted, self.calibration)
        self.stats = found

    def _plan(self, methods: Mapping[Rule, Method]) -> list[Plan]:
        """The plans of all rules, their edits done and their weights put in place."""
        plans = [
            method.plan(Scene(self.model, self._of(rule), self.stats or {}, self.calibration))
            for rule, method in methods.items()
        ]
        self._edit(plans)
        self.notes += [note for plan in plans for note in plan.notes]
        return plans

    def _edit(self, plans: Collection[Plan]) -> None:
        """Apply the edits of all plans, each once, and put their weights."""
        edits = tuple(dict.fromkeys(edit for plan in plans for edit in plan.edits))
        for edit in edits:
            edit.apply(self.model)
        for plan in plans:
            for name, weight in plan.weights.items():
                put(self.model.get_submodule(name), weight)
        self.edits += edits
        self.layers = among(self.layers, layers_of(self.model))

    def ranks(self, rule: Rule) -> dict[str, int]:
        """The adapter's rank on each layer of a rule that is left."""
        if isinstance(rule.adapter, NoAdapter):
            return {}
        found = {n: m for n, m in self._of(rule).items() if kind_of(m) in rule.adapter.kinds}
        weights = {name: layer.get_parameter("weight").detach() for name, layer in found.items()}
        return rule.adapter.allocate(rule.rank, weights, self.stats or {})

    def _of(self, rule: Rule) -> dict[str, nn.Module]:
        return among(self.assigned[rule], self.layers)


def among(names: Iterable[str], layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Those of the names that are there."""
    return {name: layers[name] for name in names if name in layers}

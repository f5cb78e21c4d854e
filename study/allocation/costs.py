"""What each setting of a group costs, as an allocator sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from compression.allocation import Allocator, Candidate, Measure
from compression.kinds import bare
from compression.methods import Method
from compression.registry import naming
from compression.rules import target_layers
from study.layerwise.fitting import Table
from study.layerwise.groups import owned
from study.layerwise.settings import Growths, Setting, Settings
from study.layerwise.space import Group, LayerwiseSpace
from trainables.build import resolve_rule
from trainables.calibration import statistics
from trainables.tasks import Prepared, Task


@dataclass(frozen=True)
class Evidence:
    """What allocators are given: the model, its data, and measurements when they are asked for.

    ``settings`` are those of the groups, of which nothing has been measured.
    """

    task: Task
    data: Prepared
    settings: Settings
    measured: Callable[[Measure], Growths]

    @property
    def space(self) -> LayerwiseSpace:
        """The space that the settings are of."""
        return self.settings.space

    def tables(self, allocator: Allocator) -> Iterator[Table]:
        """By group the settings that an allocator chooses from, with their costs.

        An allocator that looks at weights alone cannot say what an adapter is worth: of each method
        it has the smallest setting with an adapter, where there are adapters; what is left dense
        goes without. A second table is without any, for budgets that leave no room for them.
        """
        settings, measure = self.settings, allocator.measure
        if measure is not None:
            settings = Settings(self.space, settings.sizes, self.measured(measure))
        if allocator.adapted:
            yield self._table(allocator, settings.of)
            return
        for adapted in (True, False):
            yield self._table(
                allocator,
                {
                    g.name: self._smallest(g, settings.of[g.name], adapted)
                    for g in self.space.groups
                },
            )

    def _table(self, allocator: Allocator, of: Table) -> Table:
        found = dict[str, list[Setting]]()
        for group in self.space.groups:
            chosen = of[group.name]
            with naming(f"layerwise.groups.{group.name}"):
                costs = allocator.costs(self._candidates(group, chosen, allocator))
            found[group.name] = [
                replace(setting, loss=cost) for setting, cost in zip(chosen, costs, strict=True)
            ]
        return found

    def _candidates(
        self, group: Group, settings: Sequence[Setting], allocator: Allocator
    ) -> list[Candidate]:
        layers = target_layers(self.data.model, self.task.targets)
        names = owned({group.name: ",".join(group.patterns)}, layers)[group.name]
        weights = {name: bare(layers[name]).weight for name in names}
        stats = statistics(self.task, self.data, allocator.needs) if allocator.needs else {}
        own = {name: stats[name] for name in names if name in stats}
        return [
            Candidate(
                self._method(group, setting),
                weights,
                own,
                setting.loss if allocator.measure else None,
            )
            for setting in settings
        ]

    def _method(self, group: Group, setting: Setting) -> Method:
        return resolve_rule(self.space.group_rules(group, dict(setting.values))[0]).method

    def _smallest(self, group: Group, settings: Sequence[Setting], adapted: bool) -> list[Setting]:
        """Of each method the smallest setting, of those with an adapter or without if there are."""
        by_method: dict[Method, list[Setting]] = {}
        for setting in settings:
            by_method.setdefault(self._method(group, setting), []).append(setting)
        found = []
        for method, several in by_method.items():
            bare = method.name == "none" or not adapted
            alike = [s for s in several if (s.kind[0] == "none") == bare]
            found.append(min(alike or several, key=lambda s: s.bytes))
        return found

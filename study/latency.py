"""The latency of what a study may try, measured before its trials with nothing beside it.

A trial runs among others and on a worker's share of the machine: its own clock would tell more of
these than of the model. So forms (method, adapter, rank) are timed beforehand and looked up.
"""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from compression.registry import InvalidSetting
from study.config import StudyConfig
from study.constraints import parse_constraint
from study.layerwise.space import LayerwiseSpace
from study.objectives import LATENCY
from study.signals import Interrupted, Interrupts, leave
from study.space.options import chosen, keys_of
from study.space.params import Param, corners_of
from study.space.space import Space, layer_rule
from study.store import sealed
from study.store.storage import Storage
from trainables.latency import Latency, model_latency, trial_latency
from trainables.record import NONE, Choice, LayerRule, Scalar, Trial, canonical, from_json, to_json
from trainables.tasks import Prepared

FILE = "latency.json"
MOST = 200
"""Forms that are timed at most."""
_EACH = 2_000  # corners looked at, of a method beside an adapter


@dataclass
class Table:
    """Times of the dense model and of forms, each alone beside dense layers.

    A form is a rule without what no model is slower for, init and alpha; or, in ``rests``, what is
    done to all that no rule compresses, beside dense layers too.
    """

    dense: Latency | None = None
    rows: dict[LayerRule, Latency] = field(default_factory=dict)
    rests: dict[Choice, Latency] = field(default_factory=dict)

    def of(self, trial: Trial) -> float | None:
        """What an example takes the trial's model; None where it cannot be told.

        Of several rules, and the rest, each adds, or saves, what it does alone. A rule's form that
        was not timed has the time of the nearest one with the same method and adapter.
        """
        if self.dense is None:
            return None
        found = [self._row(form(rule)) for rule in trial.layers]
        found.append(self.dense if trial.rest == NONE else self.rests.get(trial.rest))
        added = [row.median_ms - self.dense.median_ms for row in found if row is not None]
        return self.dense.median_ms + sum(added) if len(added) == len(found) else None

    def _row(self, asked: LayerRule) -> Latency | None:
        if asked.adapter == NONE and all(method == NONE for method in asked.methods):
            return self.dense
        if asked in self.rows:
            return self.rows[asked]
        alike = [row for row in self.rows if _kind(row) == _kind(asked)]
        return self.rows[min(alike, key=lambda row: _distance(row, asked))] if alike else None


def form(rule: LayerRule) -> LayerRule:
    """What of a rule takes time."""
    return replace(rule, init=Choice("zeros"), alpha=None)


def _kind(rule: LayerRule) -> tuple[str, ...]:
    return rule.pattern, *(method.name for method in rule.methods), rule.adapter.name


def _distance(one: LayerRule, other: LayerRule) -> float:
    """Between forms of one kind: doublings of the rank and of settings, 1 for other words."""
    pairs: list[tuple[Scalar | None, Scalar | None]] = [(one.rank, other.rank)]
    for a, b in zip((*one.methods, one.adapter), (*other.methods, other.adapter), strict=True):
        pairs += [(a.args.get(key), b.args.get(key)) for key in {*a.args, *b.args}]
    return sum(_apart(a, b) for a, b in pairs)


def _apart(a: Scalar | None, b: Scalar | None) -> float:
    if a == b:
        return 0.0
    if isinstance(a, int | float) and isinstance(b, int | float) and a > 0 and b > 0:
        return abs(math.log2(a / b))
    return 1.0


def forms(space: Space) -> list[LayerRule]:
    """Every form at the corners of a space."""
    found: dict[LayerRule, None] = {}
    for own, patterns in _parts(space):
        for corner in _corners(own):
            for pattern in patterns:
                with suppress(InvalidSetting):  # a combination that no trial has either
                    found[form(layer_rule(corner, pattern))] = None
    return list(found)


def rests(space: Space) -> list[Choice]:
    """What a space does to the tensors that no rule compresses, but for nothing."""
    own = [(key, param) for key, param in space.params.items() if key.startswith("rest.")]
    found = (
        chosen("rest", corner)
        for name in space.params["rest"].corners()
        for corner in itertools.islice(corners_of(own, {"rest": name}), _EACH)
    )
    return [rest for rest in dict.fromkeys(found) if rest != NONE]


def some(everything: Sequence[LayerRule], most: int = MOST) -> list[LayerRule]:
    """At most so many of these forms: one of each kind, then as evenly as they stand."""
    first = {_kind(rule): rule for rule in reversed(everything)}
    others = [rule for rule in everything if rule != first[_kind(rule)]]
    left = max(0, most - len(first))
    step = max(1, math.ceil(len(others) / left)) if left else 1
    return [*reversed(first.values()), *(others[::step] if left else ())][:most]


def _parts(space: Space) -> Iterator[tuple[Mapping[str, Param], Sequence[str]]]:
    """The parameters of layers that go together, with the patterns of these."""
    if isinstance(space, LayerwiseSpace):
        for group in space.groups:
            yield space.of(group), group.patterns
    else:
        yield space.params, ("*",)


def _corners(params: Mapping[str, Param]) -> Iterator[dict[str, Scalar]]:
    """Combinations of method, adapter, rank and their knobs."""
    for method, adapter in itertools.product(*(params[k].corners() for k in ("method", "adapter"))):
        picked: dict[str, Scalar] = {"method": method, "adapter": adapter}
        own = [
            (key, param)
            for key, param in params.items()
            if key == "rank" or key.startswith((keys_of(method), keys_of(adapter)))
        ]
        yield from itertools.islice(corners_of(own, picked), _EACH)


def is_wanted(config: StudyConfig) -> bool:
    """Whether anything that the study asks for is a matter of latency."""
    named = (parse_constraint(text, config.task).name for text in config.constraints)
    return LATENCY in (*(config.objectives or ()), *named)


def measured(
    config: StudyConfig,
    space: Space,
    data: Prepared,
    storage: Storage,
    say: Callable[[str], None],
    interrupts: Interrupts,
    over: Callable[[], bool] = lambda: False,
) -> Table:
    """The study's table, as far as it was measured already; what is missing is measured now.

    Until ``over``: whether the time of the study is spent.
    """
    if not is_wanted(config):
        return Table()
    known, everything = _read(storage, say), forms(space)
    missing: list[LayerRule | Choice] = [r for r in rests(space) if r not in known.rests]
    missing += [rule for rule in some(everything) if rule not in known.rows]
    if missing or known.dense is None:
        with suppress(Interrupted), interrupts.calling(leave):
            _measure(known, missing, config, data, say, over)
        _write(storage, known, config.resources.cpus)
    if (more := len(everything) - len(known.rows)) > 0:
        say(f"{more:,} more forms are taken to be as fast as the nearest of their kind")
    return known


def _measure(
    table: Table,
    missing: Sequence[LayerRule | Choice],
    config: StudyConfig,
    data: Prepared,
    say: Callable[[str], None],
    over: Callable[[], bool],
) -> None:
    import torch

    from compression.artifact import ArtifactError

    began, before = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(config.resources.cpus)
    try:
        table.dense = model_latency(config.task, data.model, data.validation)
        for index, one in enumerate(missing):
            if over():
                say(f"the time budget is spent: {len(missing) - index} forms are not timed")
                break
            try:
                _time(table, one, config, data)
            except (InvalidSetting, ArtifactError) as error:
                say(f"not timed: {canonical(one)}: {error}")
    finally:
        torch.set_num_threads(before)
        count = len(table.rows) + len(table.rests)
        say(f"timed {count} forms in {time.monotonic() - began:.1f} s, one at a time")


def _time(table: Table, one: LayerRule | Choice, config: StudyConfig, data: Prepared) -> None:
    task = config.search_space().task
    if isinstance(one, Choice):
        trial = Trial(task, (LayerRule((NONE,)),), rest=one)
        table.rests[one] = trial_latency(config.task, data, trial)
    else:
        table.rows[one] = trial_latency(config.task, data, Trial(task, (one,)))


def _machine(threads: int) -> str:
    return f"{platform.node()}, {platform.machine()} cpu, {threads} thread{'s' * (threads > 1)}"


def _read(storage: Storage, say: Callable[[str], None]) -> Table:
    found = sealed.read(storage, FILE, "delete it, and all is timed anew")
    if found is None:
        return Table()
    rows = {from_json(LayerRule, r["form"]): from_json(Latency, r["time"]) for r in found["rows"]}
    rests = {
        from_json(Choice, r["rest"]): from_json(Latency, r["time"]) for r in found.get("rests", ())
    }
    say(f"latency: {len(rows) + len(rests)} forms as they were timed on {found['machine']}")
    return Table(found["dense"] and from_json(Latency, found["dense"]), rows, rests)


def _write(storage: Storage, table: Table, threads: int) -> None:
    content = {
        "machine": _machine(threads),
        "dense": to_json(table.dense),
        "rows": [{"form": to_json(r), "time": to_json(time)} for r, time in table.rows.items()],
        "rests": [{"rest": to_json(r), "time": to_json(time)} for r, time in table.rests.items()],
    }
    sealed.write(storage, FILE, content)

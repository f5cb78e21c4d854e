"""What a study is going to do, said before its first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compression.registry import Domain, Scalar, Values
from study.allocation.problems import skeleton_sizes
from study.config import StudyConfig
from study.constraints import parse_constraint
from study.latency import MOST, forms, is_wanted
from study.layerwise.space import LayerwiseSpace
from study.loop.limits import budget_remarks
from study.objectives import aims
from study.schedulers import Budget, Scheduler
from study.space.combinations import combinations
from study.space.params import Param, Trained
from study.space.space import Space
from study.space.targets import target_share


def plan_lines(config: StudyConfig) -> list[str]:
    """The study in a few lines: bytes in reach, budget, baselines, every knob of the space."""
    total, targets = target_share(config.task)
    budget = ", ".join(["", *_budgets(config)])
    space = config.search_space()
    params = space.params
    reach = f"{total / (total - targets):.1f}x" if targets < total else "any ratio"
    lines = [
        f"task {config.task.name}: {total:,} bytes of tensors, {targets / total:.1%} of them in "
        f"the targets: at most {reach} while the rest is left as it is",
        f"budget: {config.trials} trials of up to {config.epochs} epochs{budget}",
        _stopping(config.scheduler, Budget(config.epochs, space.min_fidelity())),
        *budget_remarks(config),
        *_confirming(config),
        *_wanted(config),
        *_allocated(config, space),
        "baselines: dense, dense with the same recovery, fp16 cast, int8 rtn",
        f"space{_counted(params)}:",
    ]
    if not isinstance(space, LayerwiseSpace):
        return lines + _knobs(params)
    for names, own in _alike(space):
        lines += [f"  {', '.join(names)}:", *(f"  {line}" for line in _knobs(own))]
    groups = tuple(group.prefix for group in space.groups)
    return lines + _knobs({k: p for k, p in params.items() if not k.startswith(groups)})


def _knobs(params: Mapping[str, Param]) -> list[str]:
    """A line for each knob: what is tried of it, and when it exists."""
    lines = []
    for key, param in params.items():
        when = [_is(k, v, params) for k, v in param.when.items()]
        when += [f"{k} is not {' or '.join(map(str, v))}" for k, v in param.unless.items()]
        when += ["a group has an adapter"] if isinstance(param, Trained) else []
        where = f"  when {' and '.join(when)}" if when else ""
        lines.append(f"  {key}: {_shown(param.domain)}{where}")
    return lines


def _alike(space: LayerwiseSpace) -> list[tuple[list[str], Mapping[str, Param]]]:
    """The groups that choose from the same, together."""
    found: list[tuple[list[str], Mapping[str, Param]]] = []
    for group in space.groups:
        own = space.of(group)
        names = next((names for names, params in found if params == own), None)
        if names is None:
            found.append(([group.name], own))
        else:
            names.append(group.name)
    return found


def _budgets(config: StudyConfig) -> Iterator[str]:
    """What ends the search before all its trials are run."""
    if config.time_budget is not None:
        yield f"at most {config.time_budget:g} s"
    if config.accelerator_budget is not None:
        yield f"at most {config.accelerator_budget:g} s of GPUs"
    if config.money_budget is not None and config.price_per_hour is not None:
        hours = config.money_budget / config.price_per_hour
        yield f"at most {config.money_budget:g} at {config.price_per_hour:g} an hour: {hours:.3g} h"
    if config.patience is not None:
        gain, trials = 100 * config.patience.gain, config.patience.trials
        yield f"until the front's hypervolume grows by less than {gain:.3g}% in {trials} trials"


def _allocated(config: StudyConfig, space: Space) -> Iterator[str]:
    """The bytes that are allotted to the layers, and by whom."""
    allocate = config.space.allocate
    if allocate is None or not isinstance(space, LayerwiseSpace):
        return
    dense = skeleton_sizes(space, config.task).dense_bytes
    budget = allocate.budget(dense)
    names = ", ".join(allocator.name for allocator in allocate.by)
    kept = f"the best of {allocate.refine} measured is kept" if allocate.refine else "as solved"
    yield (
        f"allocation: every file within {budget:,} bytes, {dense / budget:.3g}x smaller than the "
        f"dense {dense:,}; the first trials are by {names}, {kept}"
    )


def _wanted(config: StudyConfig) -> Iterator[str]:
    """Objectives, constraints, and what has to be measured for them beforehand."""
    goals = [aim.objective for aim in aims(config.task, config.objectives)]
    yield "objectives: " + ", ".join(f"{goal.name} ({goal.direction})" for goal in goals)
    if config.constraints:
        early = [parse_constraint(text, config.task) for text in config.constraints]
        known = [c.text for c in early if c.of_form]
        ends = f"; {', '.join(known)}: known before a trial trains, which ends it" if known else ""
        yield f"constraints: {', '.join(config.constraints)}{ends}"
    if is_wanted(config):
        count = len(forms(config.search_space()))
        yield f"latency: {min(MOST, count)} of {count:,} forms are timed before the search"


def _stopping(scheduler: Scheduler, budget: Budget) -> str:
    """After which epochs a trial may end early, or why after none."""
    epochs = scheduler.milestones(budget)
    when = f"epoch {', '.join(map(str, epochs))}"
    if len(epochs) > 2 and epochs == tuple(range(epochs[0], budget.epochs)):
        when = f"any epoch from {epochs[0]} on"
    said = f"may end a trial early, after {when}" if epochs else "ends no trial early"
    return "; ".join([f"scheduler {scheduler.name}: {said}", *scheduler.notes(budget)])


def _confirming(config: StudyConfig) -> list[str]:
    if (rule := config.confirm) is None:
        return []
    most = config.trials * (rule.seeds - 1)
    return [
        f"then what is on the front or near it is run with {rule.seeds - 1} other seeds: at most "
        f"{most:,} more runs, if no point could be told from another; it may use {rule.share:.0%} "
        "of a budget"
    ]


def _is(key: str, values: Sequence[Scalar], params: Mapping[str, Param]) -> str:
    """``adapter is lora or dora``; by what it is not, where that is shorter."""
    others = [v for v in params[key].corners() if v not in values]
    if others and len(others) < min(len(values), 3):
        return f"{key} is not {' or '.join(map(str, others))}"
    return f"{key} is {' or '.join(map(str, values))}"


def _counted(params: Mapping[str, Param]) -> str:
    count = combinations(params)
    return "" if count is None else f", {count:,} combination{'s' * (count > 1)}"


def _shown(domain: Domain) -> str:
    if isinstance(domain, Values):
        return ", ".join(map(str, domain.values))
    return f"{domain.low:g} to {domain.high:g}{', logarithmic' if domain.log else ''}"

"""What a study is going to do, said before its first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compression.registry import Domain, Scalar, Values
from study.combinations import combinations
from study.config import StudyConfig
from study.options import Param
from study.targets import target_share


def plan_lines(config: StudyConfig) -> list[str]:
    """The study in a few lines: bytes in reach, budget, baselines, every knob of the space."""
    total, targets = target_share(config.task)
    budget = "" if config.time_budget is None else f", at most {config.time_budget:g} s"
    params = config.search_space().params
    reach = f"{total / (total - targets):.1f}x" if targets < total else "any ratio"
    lines = [
        f"task {config.task.name}: {total:,} bytes of tensors, {targets / total:.1%} of them in "
        f"the targets: at most {reach} while the rest is left as it is",
        f"budget: {config.trials} trials of up to {config.epochs} epochs{budget}",
        "baselines: dense, dense with the same recovery, fp16 cast, int8 rtn",
        f"space{_counted(params)}:",
    ]
    for key, param in params.items():
        when = [_is(k, v, params) for k, v in param.when.items()]
        when += [f"{k} is not {' or '.join(map(str, v))}" for k, v in param.unless.items()]
        where = f"  when {' and '.join(when)}" if when else ""
        lines.append(f"  {key}: {_shown(param.domain)}{where}")
    return lines


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

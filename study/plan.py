"""What a study is going to do, said before its first trial."""

from __future__ import annotations

from collections.abc import Mapping

from compression.registry import Domain, Values
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
        when = " and ".join(f"{k} is {' or '.join(map(str, v))}" for k, v in param.when.items())
        lines.append(f"  {key}: {_shown(param.domain)}" + (f"  when {when}" if when else ""))
    return lines


def _counted(params: Mapping[str, Param]) -> str:
    count = combinations(params)
    return "" if count is None else f", {count:,} combination{'s' * (count > 1)}"


def _shown(domain: Domain) -> str:
    if isinstance(domain, Values):
        return ", ".join(map(str, domain.values))
    return f"{domain.low:g} to {domain.high:g}{', logarithmic' if domain.log else ''}"

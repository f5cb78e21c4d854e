"""A training step through the bridge to PEFT beside plain PEFT by hand: the ratio of their times.

    python tests/benchmarks/bridge_overhead.py [--adapters lora,vera,loha,oft,fourierft]
                    [--repetitions 150] [--steps 1] [--width 768] [--depth 4] [--batch 64]

The model is a chain of Linear layers. Ours is compressed with method none and adapted by
``compress_model``; theirs is the same chain under ``get_peft_model`` with the same settings. A step
is forward, backward and Adam. Repetitions of ``steps`` steps alternate between the two, each first
in every other one. Printed: medians in ms a step, their ratio, and the median of the ratios of
neighbours with its quartiles. The aim is a ratio of at most 1.10.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compression.adapters import ADAPTERS
from compression.adapters.bridge.bridged import Bridged
from compression.adapters.bridge.peft_layers import make_config
from compression.inits import Zeros
from compression.methods import NoMethod
from compression.model import Rule, compress_model, trainable

AIM = 1.10
RANK = 8


def chain(width: int, depth: int) -> nn.Sequential:
    """The dense model."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def stepper(
    model: nn.Module, parameters: list[nn.Parameter], x: torch.Tensor
) -> Callable[[], None]:
    """One training step of a model."""
    optimizer = torch.optim.Adam(parameters, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def pair(name: str, width: int, depth: int, batch: int) -> dict[str, Callable[[], None]]:
    """A step of ours and one of plain PEFT's, of the same adapter on the same weights."""
    from peft import get_peft_model

    adapter, dense = ADAPTERS.build(name), chain(width, depth)
    assert isinstance(adapter, Bridged)
    rank = RANK if adapter.ranked else 0
    x = torch.randn(batch, width)
    rules = [Rule("*", (NoMethod(),), Zeros(), adapter, rank)]
    ours = compress_model(copy.deepcopy(dense), rules, ["*"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config: Any = make_config(adapter, [str(i) for i in range(depth)], rank, float(rank))
        theirs = get_peft_model(copy.deepcopy(dense), config)
    own = [p for p in theirs.parameters() if p.requires_grad]
    counts = [sum(p.numel() for p in params) for params in (trainable(ours), own)]
    assert counts[0] == counts[1], f"{name}: {counts} trained values"
    return {"bridge": stepper(ours, trainable(ours), x), "PEFT": stepper(theirs, own, x)}


def measure(steps: dict[str, Callable[[], None]], repetitions: int, each: int) -> None:
    """Time both in turns, and print."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for repetition in range(-2, repetitions):  # the first two to warm up
        order = list(steps) if repetition % 2 else list(steps)[::-1]
        for kind in order:
            start = time.perf_counter()
            for _ in range(each):
                steps[kind]()
            if repetition >= 0:
                seconds[kind].append((time.perf_counter() - start) / each)
    bridge, plain = (1e3 * statistics.median(seconds[kind]) for kind in steps)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    verdict = "within" if bridge / plain <= AIM else "ABOVE"
    print(
        f"bridge {bridge:7.2f} ms   PEFT {plain:7.2f} ms   ratio {bridge / plain:.3f} ({verdict} "
        f"{AIM:.2f})   of neighbours {middle:.3f} [{low:.3f}, {high:.3f}]",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", default="lora,vera,loha,oft,fourierft")
    parser.add_argument("--repetitions", type=int, default=150)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    asked = parser.parse_args()
    for name in asked.adapters.split(","):
        print(f"{name:12}", end="", flush=True)
        steps = pair(name, asked.width, asked.depth, asked.batch)
        measure(steps, asked.repetitions, asked.steps)


if __name__ == "__main__":
    main()

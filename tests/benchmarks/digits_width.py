"""Which networks of the digits task are the narrowest that reach 97%.

    python tests/benchmarks/digits_width.py [--seeds 5] [--mlp 34] [--cnn 8] [--output FILE.json]

Trains both families of ``trainables/tasks/digits.py`` from width 2 up to the widths given and
prints their test accuracy by split seed; the narrowest width at which every seed reaches 97% is
what NARROWEST there must say. About 10 minutes on one core; trained networks are cached.
"""

from __future__ import annotations

from typing import Any

import torch
from measured import keep, machine, options, table

from trainables.tasks.base import observe
from trainables.tasks.digits import NARROWEST, Digits

WANTED = 0.97


def accuracy(task: Digits, seed: int) -> float:
    """Test accuracy of the dense network of a split seed."""
    test = task.test(seed)
    return task.score(observe(task, task.prepare(seed).model, test), test.labels)["accuracy"]


def scan(network: str, widest: int, seeds: int) -> dict[int, list[float]]:
    """Test accuracies by width."""
    return {
        width: [accuracy(Digits(network=network, width=width), seed) for seed in range(seeds)]
        for width in range(2, widest + 1)
    }


def narrowest(found: dict[int, list[float]]) -> int | None:
    """The first width at which all seeds reach what is wanted."""
    return next((width for width, values in found.items() if min(values) >= WANTED), None)


def main() -> None:
    """See the module."""
    given = options(__doc__, seeds=5, mlp=34, cnn=8)
    torch.set_num_threads(1)
    kept: dict[str, Any] = {"machine": machine(), "wanted": WANTED}
    for network, widest in (("mlp", given.mlp), ("cnn", given.cnn)):
        found = scan(network, widest, given.seeds)
        heading = [f"{network} width", *(f"seed {s}" for s in range(given.seeds)), "worst"]
        rows = [
            [str(width), *(f"{v:.4f}" for v in values), f"{min(values):.4f}"]
            for width, values in found.items()
        ]
        print(table([heading, *rows]))
        print(f"narrowest that reaches {WANTED:.0%}: {narrowest(found)}", end="; ")
        print(f"the task has {NARROWEST[network]}\n", flush=True)
        kept[network] = {"accuracy": found, "narrowest": narrowest(found)}
    keep(given.output, kept)


if __name__ == "__main__":
    main()

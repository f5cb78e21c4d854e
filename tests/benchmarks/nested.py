"""One file cut to several sizes, beside files made and recovered for each of these sizes alone.

    python tests/benchmarks/nested.py [--seeds 3] [--epochs 20] [--width 64] [--output FILE.json]

Of an MLP on the digits: a low-rank file and one of 8-bit codes, each with a LoRA recovered once for
the whole of it, are cut (``load(..., max_bytes=)``); so is one of ACIP, whose order of directions
is learned in the same training. Separate files have, layer by layer, the methods that the cut has,
the same adapter and so the same bytes, and a recovery of their own. Validation accuracy, the mean
over split seeds; ACIP's file has 4 bytes a direction more, and is cut to the same lengths.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from measured import keep, machine, options, table

from compression import deserialize
from compression.container import unpack_file
from compression.methods import Method
from compression.nested import Nest
from trainables.attempt import Attempt
from trainables.record import Choice, LayerRule, Trial
from trainables.tasks.base import observe
from trainables.tasks.digits import Digits

RANK = 2
WHOLE = {
    "svd": (Choice("svd", {"energy": 0.85}), "lora"),
    "acip": (Choice("acip", {"energy": 0.85}), "acip"),
    "rtn": (Choice("rtn", {"bits": 8}), "lora"),
}
SHARES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.15, 0.0)
"""Sizes, from the whole file's bytes down to the least."""


class Files:
    """What a trial leaves, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def write_bytes(self, name: str, data: bytes) -> None:
        """Keep a file."""
        self.held[name] = data


class Bench:
    """The task of one split seed."""

    def __init__(self, width: int, seed: int, epochs: int) -> None:
        self.task, self.seed, self.epochs = Digits(network="mlp", width=width), seed, epochs
        self.data = self.task.prepare(seed)
        self.choice = Choice("digits", {"network": "mlp", "width": width})

    def made(self, rules: tuple[LayerRule, ...]) -> bytes:
        """The file of a trial."""
        training: dict[str, Any] = {"lr": 3e-3, "batch_size": 64, "epochs": self.epochs}
        asked = Trial(self.choice, rules, optimizer=Choice("adam"), seed=self.seed, **training)
        files = Files()
        attempt = Attempt(self.task, self.data, asked, files)
        while not attempt.finished:
            attempt.advance()
        if attempt.outcome.error:
            raise SystemExit(attempt.outcome.error)
        return files.held[f"{attempt.trial_id}.safetensors"]

    def whole(self, method: Choice, adapter: str) -> bytes:
        """One file for all sizes."""
        return self.made((LayerRule((method,), adapter=Choice(adapter), rank=RANK),))

    def alone(self, methods: Mapping[str, Method]) -> bytes:
        """A file with these methods, recovered for itself."""
        rules = (
            LayerRule((Choice(m.name, m.args()),), pattern=n, adapter=Choice("lora"), rank=RANK)
            for n, m in methods.items()
        )
        return self.made(tuple(rules))

    def accuracy(self, data: bytes, max_bytes: int | None = None) -> float:
        """On validation, of a file or of what is inside it."""
        model = deserialize(data, self.task.architecture(), max_bytes=max_bytes)
        split = self.data.validation
        return self.task.score(observe(self.task, model, split), split.labels)["accuracy"]


def nest(data: bytes, bench: Bench) -> Nest:
    """The ladders of a file."""
    header, tensors = unpack_file(data, "file")
    model = bench.task.architecture()
    names = header.compression.layers
    return Nest(header, tensors, {n: tuple(model.get_submodule(n).weight.shape) for n in names})  # type: ignore[arg-type]


def measured(bench: Bench, kind: str) -> list[dict[str, Any]]:
    """Of one kind of file: bytes and accuracy of its cuts, and of files made for these sizes."""
    data = bench.whole(*WHOLE[kind])
    learned = bench.whole(*WHOLE["acip"]) if kind == "svd" else None
    ladders = nest(data, bench)
    *_, (_, least) = ladders.cuts()
    found = []
    for share in SHARES:
        size = round(least.bytes + share * (len(data) - least.bytes))
        header, _ = ladders.cut(ladders.within(size))
        methods = {name: entry.method for name, entry in header.compression.layers.items()}
        alone = bench.alone(methods)
        row = {"share": share, "bytes": len(alone), "cut": bench.accuracy(data, size)}
        row["alone"] = bench.accuracy(alone)
        if learned is not None:
            low = nest(learned, bench)
            *_, (_, floor) = low.cuts()
            row["acip"] = bench.accuracy(learned, size) if floor.bytes <= size else None
        found.append(row)
    return found


def mean(rows: list[dict[str, Any]], key: str) -> str:
    """Over seeds, with the extremes; nothing where a file cannot be so small."""
    values = [100 * row[key] for row in rows if row.get(key) is not None]
    if len(values) < len(rows):
        return "-"
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """See the module."""
    given = options(__doc__, seeds=3, epochs=20, width=64)
    torch.set_num_threads(1)
    kept: dict[str, Any] = {"machine": machine(), "epochs": given.epochs, "width": given.width}
    benches = [Bench(given.width, seed, given.epochs) for seed in range(given.seeds)]
    for kind in ("svd", "rtn"):
        runs = [measured(bench, kind) for bench in benches]
        columns = ["cut", "alone", *(["acip"] if kind == "svd" else [])]
        rows = [
            [
                str(round(statistics.mean(r["bytes"] for r in at))),
                *(mean([*at], c) for c in columns),
            ]
            for at in zip(*runs, strict=True)
        ]
        print(table([[f"{kind}: bytes", *columns], *rows]), end="\n\n", flush=True)
        kept[kind] = runs
    keep(given.output, kept)


if __name__ == "__main__":
    main()

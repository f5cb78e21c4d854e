"""Bytes, nearness and speed of exported models in ONNX Runtime and transformers.

    python tests/benchmarks/exported.py [--threads 1] [--seconds 2] [--output FILE.json]

The digits CNN, EfficientNet-Lite0 and all-MiniLM-L6-v2 (with a new head), all their Linear and
Conv2d layers under rtn of 4 and of 8 bits, one scale a row. Bytes of our file, of the ONNX file and
of the dense model as ONNX; the largest difference of outputs from ours and the share of equal
predictions, on validation examples (MiniLM: random tokens); milliseconds of one example, packed and
dense by turns.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from measured import keep, machine, options, table
from torch import nn

from compression.artifact import load, serialize
from compression.export import EXPORTERS, Source
from compression.methods import METHODS
from compression.model import Rule, compress_model
from trainables.hardware.devices import limit_threads
from trainables.latency import timed
from trainables.models import language as language_models
from trainables.tasks import TASKS
from trainables.tasks.product_reviews import ProductReviews

LENGTH, EXAMPLES = 64, 64
TURNS = 3


def subjects() -> Iterator[tuple[str, nn.Module, Any, Callable[[nn.Module, Any], Any]]]:
    """Name, dense model, a batch, and how a model is called."""
    for name, task in (
        ("digits cnn", TASKS.build("digits", {"network": "cnn"})),
        ("EfficientNet-Lite0", TASKS.build("imagenet_crops", {"crops": 6})),
    ):
        data = task.prepare(0)
        rows = torch.arange(min(EXAMPLES, len(data.validation)))
        yield name, data.model, data.validation.inputs(rows), task.forward
    folder = ProductReviews().folder()
    config = language_models.config_of(folder, num_labels=2)
    model, _ = language_models.load(language_models.classifier(config), folder)
    tokens = torch.randint(1000, 30000, (EXAMPLES, LENGTH), generator=torch.manual_seed(0))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    yield "MiniLM", model.eval(), batch, language_models.logits


def first(inputs: Any) -> Any:
    """The first example alone."""
    if isinstance(inputs, Mapping):
        return {name: tensor[:1] for name, tensor in inputs.items()}
    return inputs[:1]


def measured(
    dense: nn.Module, inputs: Any, forward: Any, bits: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """One model at so many bits, in each runtime that takes it."""
    rules = [Rule("*", (METHODS.build("rtn", {"bits": bits}),))]
    packed = serialize(compress_model(copy.deepcopy(dense), rules, ["*"]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "packed.safetensors")
        file.write_bytes(packed)
        model = load(str(file), copy.deepcopy(dense))
        few = first(inputs)
        sources = [Source(m, few, packed, forward) for m in (model, copy.deepcopy(dense))]
        for name in ("onnx", "compressed_tensors"):
            exporter = EXPORTERS.build(name)
            if list(exporter.refusals(sources[0])):
                continue
            places = [Path(folder, f"{name}{i}") for i in range(2)]
            written = []
            for source, place in zip(sources, places, strict=True):
                place.mkdir()
                written.append(exporter.write(source, place))
            runs = [exporter.opened(w.path, s) for w, s in zip(written, sources, strict=True)]
            with torch.inference_mode():
                ours, theirs = forward(model, inputs), runs[0](inputs)
            times: list[list[float]] = [[], []]
            for _ in range(TURNS):
                for own, run in zip(times, runs, strict=True):
                    own.append(timed(lambda run=run: run(few), seconds).median_ms)
            yield {
                "runtime": name,
                "ours": len(packed),
                "bytes": written[0].nbytes,
                "dense": written[1].nbytes,
                "apart": (ours - theirs).abs().max().item(),
                "largest": ours.abs().max().item(),
                "equal": (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item(),
                "packed_ms": min(times[0]),
                "dense_ms": min(times[1]),
            }


def main() -> None:
    """See the module."""
    asked = options(__doc__, threads=1, seconds=2)
    limit_threads(asked.threads)
    found = []
    for name, dense, inputs, forward in subjects():
        for bits in (4, 8):
            for row in measured(dense, inputs, forward, bits, asked.seconds):
                found.append({"model": name, "bits": bits, **row})
                print(found[-1], flush=True)
    keep(asked.output, {"machine": machine(), "rows": found})
    heading = ["model, bits, runtime", *list(found[0])[3:]]
    rows = [
        [f"{r['model']} {r['bits']} {r['runtime']}", *(f"{r[k]:.6g}" for k in heading[1:])]
        for r in found
    ]
    print(table([heading, *rows]))


if __name__ == "__main__":
    main()

"""Trials that share a card: how many a minute with 1, 4, 8 and 16 at once; and the feature pass.

    python tests/benchmarks/sharing.py [--trials 48] [--epochs 20] [--images 4096] [--output FILE]

- sharing: a study of the digits CNN with 256 channels, each trial on 1/n of the card, n trials at
  once, as many CPUs; trials/minute count from the first end of a trial to the last, so that the
  start of the workers, which is shown apart, is not in them;
- feature pass: images/s of a frozen ResNet-18 (random weights: speed does not depend on them) as
  :mod:`trainables.frozen.forward_pass` runs it, beside a plain forward at the same batch on
  tensors that are on the card, in float32. 0.9 is to be reached.

Needs CUDA; without it says so and exits with 2. n is left out where there are fewer CPUs.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measured import command, keep, machine, options, run, table

from trainables.hardware import devices

SHARES = (1, 4, 8, 16)
CONFIG = """
task: {{digits: {{network: cnn, width: 256}}}}
trials: {trials}
epochs: {epochs}
concurrency: {together}
searcher: random
scheduler: fifo
precision: bfloat16
resources: {{cpus: 1, gpus: {share}}}
space:
  method: [{{rtn: {{bits: [2, 3, 4, 5, 6]}}}}]
  adapter: [lora]
  init: [zeros]
  rank: {{low: 1, high: 8}}
  optimizer: [adam]
"""


def sharing(together: int, trials: int, epochs: int) -> dict[str, float]:
    """One study in a folder and a process of its own."""
    from study import log
    from study.events import Ended, Started
    from study.store.storage import Storage

    with tempfile.TemporaryDirectory() as folder:
        # Ray counts in ten-thousandths.
        share = int(10_000 / together) / 10_000
        text = CONFIG.format(trials=trials, epochs=epochs, together=together, share=share)
        Path(folder, "study.yaml").write_text(text)
        words = command("study.run", "--config", "study.yaml", "--name", "timed", "--quiet")
        began = time.time()
        run(words, Path(folder), PARETUNE_CACHE=folder)
        whole = time.time() - began
        events = log.read(Storage.open(f"{folder}/results/timed"))
    ended = [e for e in events if isinstance(e, Ended)]
    if failed := [e for e in ended if e.record.outcome.error]:
        raise SystemExit(f"{len(failed)} trials failed: {failed[0].record.outcome.error}")
    ends = [e.at for e in ended]
    starts = [e.at for e in events if isinstance(e, Started)]
    peaks = [e.record.outcome.peak_memory or 0 for e in ended]
    return {
        "trials/minute": 60 * (len(ends) - 1) / (max(ends) - min(ends)),
        "to the first end, s": min(ends) - min(starts),
        "whole command, s": whole,
        "peak of a trial, MB": max(peaks) / 1e6,
    }


class _Outputs(torch.nn.Module):
    """What a network puts out, as a pass hands it on."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"outputs": self.model(inputs)}


def feature_pass(images: int) -> dict[str, float]:
    """Images/s of both ways at the pass's own batch; medians of three."""
    import torchvision

    from trainables.frozen import forward_pass
    from trainables.splits import TensorSplit

    device = devices.pick("cuda")
    model = torchvision.models.resnet18().eval().to(device)
    split = TensorSplit(torch.randn(images, 3, 224, 224), torch.zeros(images, dtype=torch.long))
    kept: list[torch.Tensor] = []

    def sink(rows: Any, inputs: Any, values: dict[str, torch.Tensor]) -> None:
        kept.append(values["outputs"].cpu())

    paces = [forward_pass.run(_Outputs(model), split, sink, device) for _ in range(4)][1:]
    batch = statistics.mode(pace.size for pace in paces)
    model = model.to(memory_format=torch.channels_last)
    plain = [_plain(model, split.tensors[:batch], images // batch) for _ in range(4)][1:]
    return {
        "batch": float(batch),
        "plain forward, images/s": statistics.median(plain),
        "feature pass, images/s": statistics.median(pace.rate for pace in paces),
    }


@torch.inference_mode()
def _plain(model: torch.nn.Module, pixels: torch.Tensor, times: int) -> float:
    """What the card does when the inputs are there already."""
    here = pixels.cuda().contiguous(memory_format=torch.channels_last)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        model(here)
    torch.cuda.synchronize()
    return times * len(pixels) / (time.perf_counter() - began)


def main() -> None:
    """See the module."""
    given = options(__doc__, trials=48, epochs=20, images=4096)
    if not torch.cuda.is_available():
        print(f"CUDA is needed; torch {torch.__version__} sees no card here", file=sys.stderr)
        sys.exit(2)
    cores = len(os.sched_getaffinity(0))
    where: dict[str, Any] = {**machine(), "card": torch.cuda.get_device_name(0)}
    shares = [n for n in SHARES if n <= cores]
    found = {n: sharing(n, given.trials, given.epochs) for n in shares}
    names = list(found[shares[0]])
    rows = [[str(n), *(f"{found[n][name]:.4g}" for name in names)] for n in shares]
    print(table([["trials at once", *names], *rows]))
    passes = feature_pass(given.images)
    ratio = passes["feature pass, images/s"] / passes["plain forward, images/s"]
    print(", ".join(f"{k} {v:,.0f}" for k, v in passes.items()) + f"; ratio {ratio:.2f}")
    print(f"{where['card']}, {cores} CPUs, load before: {where['load_before']:.1f}")
    if left_out := [n for n in SHARES if n > cores]:
        print(f"left out for want of CPUs: {', '.join(map(str, left_out))} at once")
    keep(given.output, {"machine": where, "sharing": found, "pass": {**passes, "ratio": ratio}})


if __name__ == "__main__":
    main()

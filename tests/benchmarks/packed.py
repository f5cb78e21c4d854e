"""Layers that compute with packed weights beside the dense one, in one process.

``python tests/benchmarks/packed.py [--threads N] [--seconds S]``: ms of a call, dense and packed
interleaved, as the median between quartiles; bytes kept over bytes stored; what is faster. At the
end what torch's own int8 and int4 operators take with float32 inputs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compression.kernels import KERNELS, ReadyWeight, prepared
from compression.methods import METHODS, chain
from trainables.latency import timed_together

Call = Callable[[], object]
LINEAR = {"1024 x 1024": 1024, "4096 x 4096": 4096}
FORMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "1 bit a weight, row scales": [("int1", {})],
    "1 bit, groups of 64": [("int1", {"scale": "group", "group_size": 64})],
    "4 bits, row scales": [("rtn", {"bits": 4})],
    "4 bits, groups of 32": [("rtn", {"bits": 4, "group_size": 32})],
    "4 bits, hqq groups of 64": [("hqq", {})],
    "3 bits asymmetric, groups of 64": [
        ("rtn", {"bits": 3, "mode": "asymmetric", "group_size": 64})
    ],
    "8 bits, row scales": [("rtn", {"bits": 8})],
    "ternary": [("ternary", {})],
    "nf4": [("nf4", {})],
    "svd, rank n / 8": [("svd", {"rank": -8})],
    "svd float16, rank n / 8": [("svd", {"rank": -8, "factor_dtype": "float16"})],
    "2:4": [("n_m", {})],
    "1 of 16 blocks": [("block_sparse", {})],
    "10% kept": [("magnitude", {"sparsity": 0.9})],
}


def interleaved(calls: Mapping[str, Call], seconds: float) -> dict[str, tuple[float, ...]]:
    """Quartiles in ms of each call."""
    found = timed_together(calls, seconds)
    return {name: tuple(statistics.quantiles(times, n=4)) for name, times in found.items()}


def packed(weight: Tensor, layer: nn.Module, form: str) -> ReadyWeight:
    """The weight in a form, under the kernel that takes it. A rank below 0 divides the rows."""
    links = []
    for name, args in FORMS[form]:
        given = dict(args)
        if given.get("rank", 0) < 0:
            given["rank"] = len(weight) // -given["rank"]
        links.append(METHODS.build(name, given))
    return prepared(chain(links).compress(weight), layer)


def row(title: str, times: tuple[float, ...], dense: tuple[float, ...], more: str = "") -> None:
    """One line of the table."""
    low, median, high = times
    verdict = "faster" if median < dense[1] else "slower"
    print(f"  {title:34} {median:9.3f} [{low:.3f}, {high:.3f}] ms, dense {dense[1]:.3f}: "
          f"{dense[1] / median:5.2f}x, {verdict}{more}")  # fmt: skip


@torch.inference_mode()
def linear(size: int, seconds: float) -> None:
    """Every form of one square layer, at batch 1 and 32."""
    layer = nn.Linear(size, size, bias=False)
    weight = layer.weight.detach()
    for form in FORMS:
        ready = packed(weight, layer, form)
        stored = ready.stored_bytes()
        kept = f"; {ready.kernel}, keeps {ready.resident_bytes / stored:.3f} of what is stored"
        for batch in (1, 32):
            x = torch.randn(batch, size)
            calls = {"dense": partial(layer, x), "packed": partial(ready.linear, x)}
            times = interleaved(calls, seconds)
            row(f"{form}, batch {batch}", times["packed"], times["dense"], kept)


@torch.inference_mode()
def convolution(seconds: float) -> None:
    """A 3 x 3 convolution of 128 channels on 28 x 28 pixels."""
    layer = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    for form in FORMS:
        ready = packed(layer.weight.detach(), layer, form)
        for batch in (1, 32):
            x = torch.randn(batch, 128, 28, 28)
            calls = {
                "dense": partial(layer, x),
                "packed": partial(ready.convolution, layer, x),
            }
            times = interleaved(calls, seconds)
            row(f"{form}, batch {batch}", times["packed"], times["dense"], f"; {ready.kernel}")


@torch.inference_mode()
def of_torch(size: int, seconds: float) -> None:
    """Torch's own operators on packed integers, float32 inputs."""
    ops, weight = torch.ops.aten, torch.randn(size, size)
    eight, scales = torch.randint(-128, 127, (size, size), dtype=torch.int8), torch.rand(size)
    codes = torch.randint(0, 16, (size, size), dtype=torch.int32)
    four = ops._convert_weight_to_int4pack_for_cpu(codes, 1)
    pairs = torch.rand(size // 128, size, 2)
    for batch in (1, 32):
        x = torch.randn(batch, size)
        calls = {
            "dense": partial(nn.functional.linear, x, weight),
            "int8": partial(ops._weight_int8pack_mm, x, eight, scales),
            "int4": partial(ops._weight_int4pack_mm_for_cpu, x, four, 128, pairs),
        }
        times = interleaved(calls, seconds)
        for name in ("int8", "int4"):
            row(f"torch {name}, batch {batch}", times[name], times["dense"])


def main() -> None:
    """All tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.6, help="for each line")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    print(f"kernels {', '.join(KERNELS)}; {asked.threads} threads of torch, float32")
    for title, size in LINEAR.items():
        print(f"\nLinear {title}")
        linear(size, asked.seconds)
    print("\nConv2d 128 -> 128, 3 x 3, 28 x 28")
    convolution(asked.seconds)
    for title, size in LINEAR.items():
        print(f"\ntorch's operators, {title}")
        of_torch(size, asked.seconds)


if __name__ == "__main__":
    main()

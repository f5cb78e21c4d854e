"""Output errors of methods on layers of real networks, beside the bits a weight that they take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from measured import table
from real_layers import Layer
from torch import Tensor

from compression.inits import INITS
from compression.methods import METHODS, Method

GROUP = 32
BITS = (2, 3, 4)
Way = Callable[[Layer], tuple[Tensor, int]]
"""A layer's weight as it is kept, and the bytes of that."""
Found = dict[str, dict[str, list[float]]]
"""By way: dB, and bytes, over the layers."""


def build(name: str, **args: Any) -> Method:
    """A method by name."""
    return METHODS.build(name, args)


def of(method: Method) -> Way:
    """As a method keeps it."""

    def way(layer: Layer) -> tuple[Tensor, int]:
        packed = method.compress(layer.weight, layer.calibration)
        return packed.dense(), packed.stored_bytes()

    return way


def whole_groups(layers: Sequence[Layer]) -> list[Layer]:
    """Layers whose rows are whole groups, which references ask for."""
    return [layer for layer in layers if layer.weight[0].numel() % GROUP == 0]


def measured(ways: Mapping[str, Way], layers: Sequence[Layer]) -> Found:
    """Errors and bytes of each way."""
    found: Found = {}
    for name, way in ways.items():
        kept = [way(layer) for layer in layers]
        errors = [layer.error(dense) for layer, (dense, _) in zip(layers, kept, strict=True)]
        found[name] = {"dB": errors, "bytes": [float(size) for _, size in kept]}
    return found


def shown(title: str, found: Found, layers: Sequence[Layer], against: Mapping[str, str]) -> None:
    """Bits a weight, median and extremes, and in how many layers each is worse than its rival."""
    weights = sum(layer.weight.numel() for layer in layers)
    print(f"\n{title}")
    rows = [["", "bits a weight", "median dB", "best", "worst", "worse in", "than"]]
    for name, way in found.items():
        values, rival = way["dB"], against.get(name, "")
        bits = f"{8 * sum(way['bytes']) / weights:.2f}"
        spread = [f"{x:.2f}" for x in (statistics.median(values), min(values), max(values))]
        count = ""
        if rival:
            pairs = zip(values, found[rival]["dB"], strict=True)
            count = f"{sum(v > w + 1e-6 for v, w in pairs)} of {len(values)}"
        rows.append([name, bits, *spread, count, rival])
    print(table(rows))


def as_many(method: Method, bits: int) -> Way:
    """``rtn``, asymmetric, in the largest groups with which it has no fewer bytes than a method."""

    def way(layer: Layer) -> tuple[Tensor, int]:
        size = method.compress(layer.weight, layer.calibration).stored_bytes()
        for group in range(GROUP, 0, -1):
            rtn = build("rtn", bits=bits, mode="asymmetric", group_size=group)
            slots = rtn.layout(tuple(layer.weight.shape)).values()
            if sum(slot.nbytes for slot in slots) >= size:
                return of(rtn)(layer)
        raise ValueError(f"{layer.name}: no groups of {method.name} have as many bytes")

    return way


def quantize(layers: Sequence[Layer]) -> dict[str, Found]:
    """Asymmetric and symmetric grids in equal groups; where bytes differ, rtn with as many."""
    found = {}
    for bits in BITS:
        grid = {"bits": bits, "group_size": GROUP}
        uneven = grid | {"mode": "asymmetric"}
        both = {"symmetric": grid, "asymmetric": uneven}
        names = ("rtn", "gptq", "awq")
        ways = {f"{n} {mode}": of(build(n, **args)) for n in names for mode, args in both.items()}
        ways["hqq"] = of(build("hqq", **grid))
        larger = {"awq asymmetric": build("awq", **uneven), "hqq": build("hqq", **grid)}
        ways |= {f"rtn, as many bytes as {n}": as_many(m, bits) for n, m in larger.items()}
        against = {f"{n} {mode}": f"rtn {mode}" for n in ("gptq", "awq") for mode in both}
        against |= {name: f"rtn, as many bytes as {name}" for name in larger}
        title = f"{bits} bits, groups of {GROUP}"
        found[title] = measured(ways, layers)
        shown(f"quantize, {title}", found[title], layers, against)
    return found


def low_rank(layers: Sequence[Layer]) -> dict[str, Found]:
    """A quarter of the values of W, whatever they make up."""

    def ranked(name: str) -> Way:
        def way(layer: Layer) -> tuple[Tensor, int]:
            m, n = layer.weight.flatten(1).shape
            rank = m * n // (4 * (m + n))
            if name == "cur":  # r (m + n + r)
                rank = int((math.sqrt((m + n) ** 2 + m * n) - (m + n)) / 2)
            return of(build(name, rank=max(1, rank)))(layer)

        return way

    names = ("svd", "whitened_svd", "afm", "utilized_rank", "cur")
    found = measured({name: ranked(name) for name in names}, layers)
    shown("low rank, a quarter of the values", found, layers, dict.fromkeys(names[1:], "svd"))
    return {"quarter": found}


def sparsify(layers: Sequence[Layer]) -> dict[str, Found]:
    """Half of the weights, anywhere or as two of every four."""
    solved = ("wanda", "sparsegpt", "admm", "awp")
    half = {name: of(build(name)) for name in ("magnitude", *solved)}
    half["wanda, across layer"] = of(build("wanda", across="layer"))
    tiles = {name: of(build(name, pattern="n_m", n=2, m=4)) for name in solved}
    tiles = {"n_m": of(build("n_m", n=2, m=4))} | tiles
    found = {}
    for title, ways, plain in (("half", half, "magnitude"), ("2:4", tiles, "n_m")):
        found[title] = measured(ways, layers)
        against = dict.fromkeys((name for name in ways if name != plain), plain)
        shown(f"sparsify, {title}", found[title], layers, against)
    return found


def correct(layers: Sequence[Layer], rank: int = 16) -> dict[str, Found]:
    """Inits over rtn in layers wider than two ranks; factors count as float32."""
    wide = [layer for layer in layers if min(layer.weight.flatten(1).shape) > 2 * rank]
    names = [name for name in INITS if not INITS[name].needs - {"inputs"}]
    found = {}
    for bits in BITS:
        title = f"rtn {bits} bits, rank {rank}"
        found[title] = measured({n: corrected(n, bits, rank) for n in names}, wide)
        against = dict.fromkeys((name for name in names if name != "zeros"), "zeros")
        shown(f"correct, {title}", found[title], wide, against)
    return found


def corrected(name: str, bits: int, rank: int) -> Way:
    """A weight under rtn, with what an init puts into factors of this rank."""
    init, method = INITS.build(name), build("rtn", bits=bits, group_size=GROUP)

    def way(layer: Layer) -> tuple[Tensor, int]:
        def compress(weight: Tensor) -> Any:
            return method.compress(weight, layer.calibration)

        made = torch.Generator().manual_seed(0)
        base, b, a = init.start(layer.weight, compress, rank, layer.calibration, made)
        dense = base.dense() + (b @ a).view_as(layer.weight)
        return dense, base.stored_bytes() + 4 * (b.numel() + a.numel())

    return way


QUALITY = {"quantize": quantize, "low_rank": low_rank, "sparsify": sparsify, "correct": correct}

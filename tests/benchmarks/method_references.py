"""Methods beside those of other packages, on the same weights in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import reference_quantizers as reference
import reference_sparsifiers as pruning
from method_quality import BITS, GROUP, build
from real_layers import Layer, stats_of
from torch import Tensor

from compression.methods import Method
from compression.stats import inputs_of


class Rival(NamedTuple):
    """A package's way with a layer, beside our method; ``takes`` says which layers it can do."""

    title: str
    package: str
    method: Method
    theirs: Callable[[Layer], reference.Result]
    takes: Callable[[Layer], bool] = lambda layer: True
    ours_sees: Callable[[Layer], Layer] = lambda layer: layer


def references(layers: Sequence[Layer]) -> dict[str, Any]:
    """Ours less theirs, in dB, layer by layer; above 0.1 is worse."""
    found: dict[str, Any] = {}
    for rival in [*(r for bits in BITS for r in quantizers(bits)), nf4(), *sparsifiers()]:
        able = [layer for layer in layers if rival.takes(layer)]
        if not reference.installed(rival.package):
            found[rival.title] = f"{rival.package} is not installed"
        elif able:
            found[rival.title] = against(rival, able)
    print("\nours less the reference's, dB (below 0: ours is better)")
    for name, gap in found.items():
        print(f"  {name}: {gap}")
    return found


def against(rival: Rival, layers: Sequence[Layer]) -> dict[str, float]:
    """Gaps over layers, and how many bytes more than theirs ours has in all."""
    gaps, mine, theirs = [], 0, 0
    for layer in layers:
        ours = rival.method.compress(layer.weight, rival.ours_sees(layer).calibration)
        other, size = rival.theirs(layer)
        gaps.append(layer.error(ours.dense()) - layer.error(other.view_as(layer.weight)))
        mine, theirs = mine + ours.stored_bytes(), theirs + size
    return {
        "median": round(statistics.median(gaps), 4),
        "worst": round(max(gaps), 4),
        "layers above 0.1": sum(gap > 0.1 for gap in gaps),
        "layers": len(gaps),
        "bytes more, %": round(100 * (mine - theirs) / theirs, 3),
    }


def quantizers(bits: int) -> Iterator[Rival]:
    """In groups of GROUP, by name: torchao, hqq and auto-gptq."""
    grid = {"bits": bits, "group_size": GROUP}
    uneven = grid | {"mode": "asymmetric"}
    plain, halves = build("rtn", **uneven), build("hqq", **grid)

    def title(name: str) -> str:
        return f"{name}, {bits} bits"

    def rtn(layer: Layer) -> reference.Result:
        return reference.torchao_rtn(matrix(layer), bits, GROUP, False)

    def hqq(layer: Layer) -> reference.Result:
        return reference.hqq(matrix(layer), bits, GROUP)

    def torchao_hqq(layer: Layer) -> reference.Result:
        return reference.torchao_hqq(matrix(layer), bits, GROUP)

    def gptq(layer: Layer) -> reference.Result:
        return reference.auto_gptq(matrix(layer), bits, GROUP, False, moment(layer))

    def awq(layer: Layer) -> reference.Result:
        return reference.torchao_awq(matrix(layer), bits, GROUP, rows(layer))

    yield Rival(title("rtn of torchao"), "torchao", plain, rtn)
    yield Rival(title("hqq"), "hqq", halves, hqq)
    yield Rival(title("hqq of torchao"), "torchao", halves, torchao_hqq)
    yield Rival(title("gptq"), "auto_gptq", build("gptq", **uneven), gptq, one_group)
    scaled = build("awq", **grid, clip=False)
    yield Rival(title("awq, no clipping"), "torchao", scaled, awq, one_group, of_rows)


def nf4() -> Rival:
    """Blocks of 64, whose scales are quantised 256 together."""

    def theirs(layer: Layer) -> reference.Result:
        return reference.torchao_nf4(matrix(layer), 64)

    def takes(layer: Layer) -> bool:
        return layer.weight[0].numel() % 64 == 0 and layer.weight.numel() % (64 * 256) == 0

    method = build("nf4", group_size=64, double=True)
    return Rival("nf4, scales in 8 bits", "torchao", method, theirs, takes)


def sparsifiers() -> Iterator[Rival]:
    """torchao's wanda, which has weights compete in a whole layer; bytes are counted as ours."""
    for title, args, known in (
        ("wanda, half of a layer", {"across": "layer"}, {}),
        ("wanda, 2:4", {"pattern": "n_m"}, {"m": 4}),
    ):
        method = build("wanda", **args)

        def theirs(
            layer: Layer, method: Method = method, known: dict[str, int] = known
        ) -> reference.Result:
            size = method.compress(layer.weight, layer.calibration).stored_bytes()
            return pruning.torchao_wanda(matrix(layer), moment(layer), **known), size

        yield Rival(title, "torchao", method, theirs, one_group)


def matrix(layer: Layer) -> Tensor:
    """The weight (m, n)."""
    return layer.weight.flatten(1)


def moment(layer: Layer) -> Tensor:
    """The second moment (n, n) of the inputs of a layer without groups."""
    return inputs_of(layer.calibration).second_moment[0]


def rows(layer: Layer) -> Tensor:
    """Some inputs of a layer without groups."""
    if layer.rows is None:
        raise ValueError(f"{layer.name}: has inputs in groups")
    return layer.rows


def one_group(layer: Layer) -> bool:
    """Whether all rows of the weight see the same inputs."""
    return layer.rows is not None


def of_rows(layer: Layer) -> Layer:
    """The layer with the moments of the inputs that the reference sees."""
    return replace(layer, calibration=stats_of(rows(layer)))

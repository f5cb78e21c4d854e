"""Points that others published, and which of them may be drawn on a study's own axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True)
class System:
    """A published system: how `published.csv` names it, and what a study of it here takes."""

    title: str
    needs: str
    command: str


SYSTEMS: Mapping[str, System] = {
    "lora_compression": System(
        "000 LoRA-Compression",
        "ImageNet's 50,000 validation images in a folder a class",
        "python -m study.run --config study/configs/lora_compression.yaml "
        "--set task.image_classification.data=/path/to/imagenet/val",
    ),
    "pc_lora": System(
        "002 PC-LoRA",
        "CIFAR-10 and the weights of ViT-B, or IMDb and those of BERT",
        "python -m study.run --config study/configs/pc_lora.yaml --set task=...",
    ),
    "svd_lora": System(
        "003 SVDLoRA",
        "CIFAR-10 and a model that its authors do not name",
        "python -m study.run --config study/configs/svd_lora.yaml "
        "--set task.image_classification.data=cifar10",
    ),
}

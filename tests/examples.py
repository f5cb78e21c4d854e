"""Small instances of plugins that have required settings: the contract tests run over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import text_examples
import translation_examples


def image_folder(folder: Path, classes: int = 3, each: int = 24, size: int = 40) -> Path:
    """JPEGs in one folder a class: stripes whose direction and colour tell the class, and noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        angle = np.pi * label / classes
        colour = np.array([np.cos(angle), np.cos(angle + 2), np.cos(angle + 4)])
        for index in range(each):
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 2 + rng.uniform(0, 6))
            pixels = (
                128
                + 40 * wave[..., None] * colour
                + 60 * colour
                + rng.normal(0, 20, (size, size, 3))
            )
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"class{label}" / f"{index:03}.jpg", quality=90)
    return folder


def _image_classification(folder: Path) -> dict[str, Any]:
    return {
        "data": str(image_folder(folder / "images")),
        "weights": "finetune",
        "start": "none",
        "lr": 3e-3,
        "epochs": 2,
        "image_size": 32,
        "validation_share": 0.25,
        "test_share": 0.25,
    }


SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "causal_lm": text_examples.causal_lm,
    "image_classification": _image_classification,
    "product_reviews": text_examples.product_reviews,
    "seq2seq": translation_examples.seq2seq,
    "text_classification": text_examples.text_classification,
    "imagenet_crops": lambda _: {"crops": 2, "image_size": 96},
}
"""By task name: settings that need no network, their files made in the given folder."""

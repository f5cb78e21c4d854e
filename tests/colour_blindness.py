"""Colours as eyes see them that lack one kind of cones, and how far apart two then are.

Sources: Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color
vision deficiency", IEEE TVCG 15, tables at severity 1.0; CIE 1976 L*a*b* under D65; contrast as
WCAG 2.2 defines it.
"""

from __future__ import annotations

import numpy as np

MATRICES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    """``#RRGGBB`` as linear RGB in [0, 1]."""
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: str = "normal") -> np.ndarray:
    """L*a*b* of a colour as this sight has it."""
    seen = np.clip(MATRICES[sight] @ linear(colour), 0, 1)
    ratio = TO_XYZ @ seen / WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def apart(a: str, b: str, sight: str) -> float:
    """Distance in L*a*b*: some 2.3 are just seen, 10 at a glance."""
    return float(np.linalg.norm(lab(a, sight) - lab(b, sight)))


def contrast(a: str, b: str) -> float:
    """From 1 to 21."""
    light = sorted((float(TO_XYZ[1] @ linear(c)) for c in (a, b)), reverse=True)
    return (light[0] + 0.05) / (light[1] + 0.05)

"""Colours and fonts of all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["BAND", "GREY", "INK", "PALE", "PALETTE", "SHADES", "STYLE", "ink_on", "shades_of"]

# Okabe & Ito 2008, "Color universal design": told apart with colour-blind eyes.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "#000000")
INK, GREY, PALE, BAND = "#222222", "#6F6F6F", "#B4B4B4", "#0072B2"
SHADES = ("#EAF2F8", "#7FB2D4", "#0072B2", "#003A5C")  # from small to large, by lightness
STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Names come from users: a dollar sign is a dollar sign.
    "text.parse_math": False,
}


def shades_of(values: Sequence[float | None]) -> list[str | None]:
    """The colour of each value: from the smallest to the largest along :data:`SHADES`."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    shares = [
        None if v is None else (v - low) / (high - low) if high > low else 0.5 for v in values
    ]
    return [None if share is None else _between(share) for share in shares]


def _between(share: float) -> str:
    """Between two shades in equal steps of red, green and blue."""
    at = min(int(share * (len(SHADES) - 1)), len(SHADES) - 2)
    part = share * (len(SHADES) - 1) - at
    pairs = zip(_rgb(SHADES[at]), _rgb(SHADES[at + 1]), strict=True)
    return "#" + "".join(f"{round(a + part * (b - a)):02X}" for a, b in pairs)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def ink_on(colour: str) -> str:
    """White or black, whichever is read better on it: a contrast of at least 4.58 by WCAG 2.2."""
    parts = [v / 255 for v in _rgb(colour)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    luminance = sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#FFFFFF" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"

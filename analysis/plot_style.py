"""Colours and fonts of all pictures."""

from __future__ import annotations

from typing import Any

__all__ = ["BAND", "GREY", "INK", "PALE", "PALETTE", "SHADES", "STYLE"]

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

"""A figure as the bytes of a file; the same figure gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from analysis.plot_style import STYLE

__all__ = ["png", "svg"]


def png(figure: Figure) -> bytes:
    """A PNG, without a date."""
    return _saved(figure, format="png", metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """An SVG, without a date; text is paths, so that it looks alike without the font."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    # Ids in an SVG are drawn at random without a salt.
    with mpl.rc_context({**STYLE, "svg.hashsalt": "paretune"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, **options)
    return buffer.getvalue()

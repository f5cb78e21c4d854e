"""What the page of a comparison says and draws, as plain data."""

from __future__ import annotations

from typing import Any

from analysis.markup import spans
from analysis.page.drawn import drawn
from analysis.plot_style import PALETTE, SHADES
from analysis.studies.comparison import Comparison
from analysis.studies.words import Part, parts, title

__all__ = ["comparison"]


def comparison(made: Comparison) -> dict[str, Any]:
    """Everything of one comparison; text is in spans, none of it markup."""
    return {
        "name": ", ".join(rival.name for rival in made.field.rivals),
        "title": spans(title(made)),
        "palette": {"names": PALETTE, "shades": SHADES},
        "charts": {"fronts": drawn(made.chart)},
        "parts": [_part(part) for part in parts(made)],
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "title": part.title,
        "head": [spans(cell) for cell in part.head],
        "rows": [[spans(cell) for cell in row] for row in part.rows],
        "lines": [spans(line) for line in part.lines],
    }

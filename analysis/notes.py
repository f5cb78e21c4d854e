"""What pictures and the page write beside a point."""

from __future__ import annotations

from analysis import units
from analysis.columns import Point
from analysis.findings import Findings
from analysis.summary import short

__all__ = ["certified_note"]


def certified_note(point: Point, found: Findings) -> str:
    """Of the smallest model that is certified: ``4.5×, certified within 1 pp``."""
    margin = units.margin_of(found.y, found.margin, short=True)
    return f"{short(point, found.axis)}, certified within {margin}"

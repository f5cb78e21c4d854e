"""What a page says and draws, as plain data: `report.json`, and the data inside `report.html`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from analysis import units
from analysis.charts import Chart
from analysis.findings import Findings
from analysis.markup import Span, safe, spans
from analysis.page.drawn import drawn
from analysis.page.front import front
from analysis.page.front_table import front_table
from analysis.plot_style import PALETTE, SHADES
from analysis.summary import answers, headline
from analysis.summary_ground import ground, left_out, unmeasured

__all__ = ["contents"]

SCHEMA = 1


def contents(found: Findings, charts: Mapping[str, Chart]) -> dict[str, Any]:
    """Everything of one study. Text is in spans: what of it is strong or code, none of it markup.

    Args:
        found: What the study says.
        charts: To draw below the front, by name.
    """
    return {
        "schema": SCHEMA,
        "name": found.study.name,
        "task": str(found.study.info.get("task") or ""),
        "metric": units.name(found.y),
        "palette": {"names": PALETTE, "shades": SHADES},
        "headline": spans(headline(found)),
        "answers": _lines(answers, found),
        "front": front(found),
        "charts": {name: drawn(chart) for name, chart in charts.items()},
        "table": front_table(found),
        "honest": {
            "Left out": _lines(left_out, found),
            "What this rests on": _lines(ground, found),
            "Not measured": _lines(unmeasured, found),
            "Published points": _lines(_published, found),
        },
    }


def _lines(of: Callable[[Findings], Iterable[str]], found: Findings) -> list[list[Span]]:
    return [spans(line) for line in of(found)]


def _published(found: Findings) -> Iterable[str]:
    """Why published points are not on the study's axes."""
    reasons: dict[tuple[str, str], int] = {}
    for one in found.published:
        if one.why_not:
            key = (one.point.system, one.why_not)
            reasons[key] = reasons.get(key, 0) + 1
    for (system, why), count in reasons.items():
        yield f"{safe(system)}: {units.counted(count, 'point')} not comparable: {safe(why)}."

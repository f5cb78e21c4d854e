"""What a report draws: each chart in a file of its own, listed here in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analysis.charts.attainment import attainment_over_seeds
from analysis.charts.by_rank import metric_by_rank
from analysis.charts.chart import Chart
from analysis.charts.curves import learning_curves
from analysis.charts.hypervolume import hypervolume_by_effort
from analysis.charts.importance import what_mattered
from analysis.charts.map import method_by_init
from analysis.findings import Findings

__all__ = ["CHARTS", "Chart"]

CHARTS: Mapping[str, Callable[[Findings], Chart | None]] = {
    "rank": metric_by_rank,
    "curves": learning_curves,
    "hypervolume": hypervolume_by_effort,
    "importance": what_mattered,
    "map": method_by_init,
    "attainment": attainment_over_seeds,
}
"""By name, which names the chart's files too. A chart that has nothing to show is None."""

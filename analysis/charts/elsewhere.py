"""Published points that are not comparable with a study: in panels of their own, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.findings import Findings
from analysis.published import COUNTS, KINDS, SYSTEMS, UNCOMPRESSED, Placed, PublishedPoint, panels

__all__ = ["published_elsewhere"]


def published_elsewhere(found: Findings) -> Chart | None:
    """A panel for each group that is alike in all that axes say; None where there is none."""
    groups = panels(found.published)
    if not groups:
        return None
    return Chart(
        "Published points that are not comparable",
        "On axes of their own, for the reason that stands above each: model, data, split, metric "
        "and what the ratio counts would have to be the study's.",
        [_panel(group) for group in groups],
        columns=2,
    )


def _panel(group: Sequence[Placed]) -> Panel:
    points = [one.point for one in group]
    first = points[0]
    x = Scale(f"times smaller ({first.ratio_kind}): {KINDS[first.ratio_kind]}", log=True)
    y = Scale(COUNTS.get(first.metric, first.metric), percent=first.metric not in COUNTS)
    factor = 100 if first.metric in COUNTS else 1
    title = f"{SYSTEMS[first.system].title}: {group[0].why_not}"
    return Panel(title, x, y, [_series(label, some, factor) for label, some in _named(points)])


def _named(points: Iterable[PublishedPoint]) -> list[tuple[str, list[PublishedPoint]]]:
    found: dict[str, list[PublishedPoint]] = {}
    for point in points:
        found.setdefault(point.series, []).append(point)
    return list(found.items())


def _series(label: str, points: Sequence[PublishedPoint], factor: int) -> Series:
    known = sorted((p.ratio, factor * p.value, p.point) for p in points if p.value is not None)
    alone = label == UNCOMPRESSED or len({ratio for ratio, _, _ in known}) == 1
    return Series(
        label,
        Mark.POINTS if alone else Mark.LINE,
        [x for x, _, _ in known],
        [y for _, y, _ in known],
        texts=[text for _, _, text in known],
    )

"""How the front moves with the seed: what a quarter, half, three quarters of the seeds attain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis import fronts
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.tried import Tried, metric_scale, tried
from analysis.columns import Axis
from analysis.findings import Findings
from trainables.record import NONE, Objective

__all__ = ["attainment_over_seeds", "attainment_panel"]

PERCENT = (25.0, 50.0, 75.0)
Losses = NDArray[np.float64]


def attainment_over_seeds(found: Findings) -> Chart | None:
    """The front's attainment surfaces over seeds; None where nothing was run again."""
    sets = _by_seed(found)
    if len(sets) < 2:
        return None
    return Chart(
        "How the front moves with the seed",
        f"Of {len(sets)} seeds, on validation: half of them reach the line or beat it; the band is "
        "between what a quarter and what three quarters of them reach. Of each seed its runs of "
        "the settings that were run again count; what fell behind was not run with all seeds. "
        "Seeds vary what is trained, not the dense model nor the splits.",
        [attainment_panel(sets, found.axis, found.y, metric_scale(found.y), "seeds")],
    )


def attainment_panel(
    sets: Sequence[Losses],
    axis: Axis,
    y: Objective,
    scale: Scale,
    repeats: str,
    title: str = "",
) -> Panel:
    """Median surface and the band around it, of sets of losses (size, metric)."""
    easy, middle, hard = fronts.attained(sets, PERCENT)
    grid = np.unique(np.concatenate([easy[:, 0], middle[:, 0], hard[:, 0]]))
    # The last step holds as far as the others do.
    middle = np.vstack([middle, (grid[-1], middle[-1, 1])])
    # Left of its first point nothing is attained, so that there a band has no edge.
    grid = grid[grid >= max(easy[0, 0], hard[0, 0])]
    x = np.repeat(grid, 2)
    size, metric = axis.objective.value, y.value
    edges = [_heights(surface, grid) for surface in (easy, hard)]
    low, high = (np.array([metric(v) for v in edge]) for edge in (edges[1], edges[0]))
    band = Series(
        f"between a quarter and three quarters of the {repeats}",
        Mark.BAND,
        [size(v) for v in x],
        [float(v) for v in (low + high) / 2],
        low=[float(v) for v in low],
        high=[float(v) for v in high],
        colour="attained",
    )
    line = Series(
        f"half of the {repeats}",
        Mark.STEP,
        [size(v) for v in middle[:, 0]],
        [metric(v) for v in middle[:, 1]],
        colour="attained",
    )
    return Panel(title, Scale(axis.label, log=True), scale, [band, line])


def _by_seed(found: Findings) -> list[Losses]:
    """Of each seed the losses of what ran again; what no seed changes is in all of them."""
    trials = [one for one in tried(found) if one.row.record.outcome.sha256]
    again = {one.config for one in trials if one.row.role == "confirm"}
    members = {id(point.row) for point in found.front}
    seeds = sorted({_seed(one) for one in trials if one.config in again})
    exact = [one for one in trials if id(one.row) in members and _seedless(one)]
    runs = [one for one in trials if one.config in again]
    sets = [_losses(found, [*exact, *(o for o in runs if _seed(o) == seed)]) for seed in seeds]
    return [losses for losses in sets if len(losses)]


def _seed(one: Tried) -> int:
    return one.row.record.trial.seed


def _seedless(one: Tried) -> bool:
    trial = one.row.record.trial
    return not trial.epochs and all(rule.adapter == NONE for rule in trial.layers)


def _losses(found: Findings, trials: Sequence[Tried]) -> Losses:
    pairs = [(found.axis.of(one.row.record.outcome), one.value) for one in trials]
    known = [
        (found.axis.objective.loss(size), found.y.loss(value))
        for size, value in pairs
        if size is not None
    ]
    return np.array(known).reshape(-1, 2)


def _heights(surface: Losses, grid: Losses) -> Losses:
    """The staircase just before and just after each place of a grid, ``(2 g,)``."""
    before = np.searchsorted(surface[:, 0], grid, side="left") - 1
    after = np.searchsorted(surface[:, 0], grid, side="right") - 1
    places = np.stack([np.maximum(before, 0), after], axis=1).ravel()
    return np.asarray(surface[:, 1][places])

"""What a summary says of seeds: which runs were made again, what they vary, what they do not."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.findings import Findings

__all__ = ["run_again", "what_varies"]


def run_again(found: Findings) -> Iterable[str]:
    """Which points were run with other seeds, and what that did to the front."""
    rows = [row for row in found.study.rows if row.role == "confirm"]
    if not rows:
        return
    settings = {row.record.config_id for row in rows}
    exact = sum(point.number("seeds") == 1 for point in found.front)
    failed = sum(row.record.outcome.sha256 is None for row in rows)
    yield (
        f"On the front or near it on validation, and so run again with other seeds: {len(rows)} "
        f"runs of {len(settings)} settings. Who is on the front was then decided on means over "
        "seeds, before test was read."
    )
    if exact:
        yield f"On the front and run once, as no seed changes them: {exact}."
    if failed:
        yield f"Runs with other seeds that failed and are left out of the means: {failed}."


def what_varies(found: Findings) -> Iterable[str]:
    """What intervals cover."""
    seed = found.study.info.get("seed", "?")
    if not any("seeds" in point.values for point in found.front):
        yield (
            f"Seed {seed}: one seed for the dense training, the splits and the recovery, so "
            "intervals cover the sampling of the test examples only."
        )
        return
    yield (
        "Seeds vary the recovery: what adapters start at and the order of batches. They do not "
        f"vary the dense training, the splits and the calibration examples, which are of seed "
        f"{seed} in all runs. Means over seeds have t-intervals; one of the runs is the search's "
        "own, by which the point was found, so that means on validation are a little flattered."
    )
    yield (
        "What ships is the run that was best on validation. Intervals of its drop cover the "
        "sampling of the test examples only."
    )

"""Where MLflow's pages show the runs of a study's front: a small file for the report."""

from __future__ import annotations

from study.state import StudyState
from study.tracking.address import page_address, web
from study.tracking.mirror import Mirror

__all__ = ["links"]


def links(mirror: Mirror, state: StudyState, uri: str) -> dict[str, str] | None:
    """Addresses by trial id, of the front and the baselines, as far as these have runs.

    None while there is no front, and of a store that no browser opens.
    """
    if state.frozen is None or not web(uri):
        return None
    shown = [t.trial_id for t in state.baselines.values()]
    shown += [member.trial_id for member in state.frozen.members]
    runs = {i: run for i in shown if (run := mirror.run_of(i))}
    return {i: page_address(uri, mirror.pages.run(run.run_id)) for i, run in runs.items()}

"""Where MLflow's pages show the runs of a study's front: a small file for the report."""

from __future__ import annotations

from urllib.parse import urlsplit

from study.state import StudyState
from study.tracking.mirror import Mirror

__all__ = ["links"]


def links(mirror: Mirror, state: StudyState, uri: str) -> dict[str, str] | None:
    """Addresses by trial id, of the front and the baselines, as far as these have runs.

    None while there is no front, and of a store that no browser opens. Names and passwords of
    ``uri`` are left out.
    """
    parts = urlsplit(uri)
    if state.frozen is None or parts.scheme not in ("http", "https"):
        return None
    host = parts.netloc.rpartition("@")[2]
    pages = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/"
    shown = [t.trial_id for t in state.baselines.values()]
    shown += [member.trial_id for member in state.frozen.members]
    found = {i: mirror.link(i) for i in shown}
    return {i: pages + link for i, link in found.items() if link}

"""MLflow, as a view of the study log that a process of its own keeps up to date."""

from study.tracking.address import (
    TrackingError,
    check_reachable,
    default_tracking_uri,
    page_address,
    ui_command,
)
from study.tracking.ending import ending
from study.tracking.tracker import Summary, Tracker, environment, params_of_study

__all__ = [
    "Summary",
    "Tracker",
    "TrackingError",
    "check_reachable",
    "default_tracking_uri",
    "ending",
    "environment",
    "page_address",
    "params_of_study",
    "ui_command",
]

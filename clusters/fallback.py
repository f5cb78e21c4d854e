"""From spot to on demand: which type of node Ray's autoscaler asks for when one was refused.

Ray 2.60 keeps a record of the types that the cloud refused to launch (no capacity, a limit), for 30
minutes (``AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S``), and hands it to the function that scores
types; its own function does not look at it, so the best type is asked for again and again. This one
does. (The second autoscaler, ``RAY_enable_autoscaler_v2``, lowers a type whose machines came but
did not get ready, not one that was refused, and takes no scorer.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary

Resources = dict[str, Any]
SCORER = "RAY_AUTOSCALER_UTILIZATION_SCORER"  # the variable of the head's ``ray start``


def score(
    node_resources: Resources,
    resources: list[Resources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[Any, ...] | None:
    """How well a type of node suits what is asked for; the greatest is launched.

    Ray's own score, in which a refused type stands behind all that were not; only that types with
    GPUs are kept for work that needs them comes first. Of equals Ray takes the last by name.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    base = _default_utilization_scorer(
        node_resources,
        resources,
        node_type,
        node_availability_summary=node_availability_summary,
    )
    if base is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    keeps_gpus, *rest = base
    return (keeps_gpus, record is None or record.is_available, *rest)

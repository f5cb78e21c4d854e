"""The task's own loss."""

from __future__ import annotations

from trainables.losses.base import LOSSES, Aim, Lessons, Loss


@LOSSES.register("task")
class TaskLoss(Loss):
    """The task's own loss, as it is."""

    def over(self, before: Aim, lessons: Lessons) -> Aim:
        """See :class:`Loss`."""
        return before

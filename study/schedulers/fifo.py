"""No early stopping."""

from collections.abc import Iterator

from study.schedulers.base import SCHEDULERS, Budget, Rungs, Scheduler, Standing


@SCHEDULERS.register("fifo")
class Fifo(Scheduler):
    """Every trial runs to its full budget."""

    def notes(self, budget: Budget) -> Iterator[str]:
        """That it stops nothing surprises nobody."""
        yield from ()

    def start(self, budget: Budget) -> Rungs:
        """See :class:`Scheduler`."""
        return _Everything()

    def milestones(self, budget: Budget) -> tuple[int, ...]:
        """None."""
        return ()


class _Everything(Rungs):
    def on_report(self, trial: str, at: Standing) -> bool:
        return True

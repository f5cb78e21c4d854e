"""What a person sees while a study runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from analysis.front_text import WIDTH
from analysis.fronts import hypervolume, non_dominated
from analysis.masking import masked, printable
from analysis.telling import wrapped
from study.events import Ended, Event
from study.objectives import Aim, final
from study.state import StudyState, TrialState
from study.terminal.time_left import seconds_left
from trainables.record import Objective

LINE_SECONDS = 5.0
PANEL_SECONDS = 0.5
FRONT_ROWS = 8


@contextmanager
def said(say: Callable[[str], None]) -> Iterator[None]:
    """Within the block, what a long computation logs is said."""
    logger, handler = logging.getLogger("paretune"), logging.Handler(logging.INFO)
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Live:
    """Counts, front, hypervolume and time left. A :class:`study.loop.brief.View`."""

    def __init__(
        self,
        state: StudyState,
        trials: int,
        objective: Objective,
        chance: float,
        seconds_left: float | None = None,
        quiet: bool = False,
        also: Sequence[Aim] = (),
        met: Callable[[TrialState], bool] = lambda trial: True,
    ) -> None:
        self.state, self.trials, self.objective, self.chance = state, trials, objective, chance
        self.budget, self.quiet = seconds_left, quiet
        # Objectives beyond metric and ratio, and whether a trial meets the constraints.
        self._also, self._met = also, met
        self._began = time.monotonic()
        self._panel: Any = None
        # What the panel's own thread shows: made in `put`, where the state does not change.
        self._shown: Any = ""
        self._next_look = 0.0

    def __enter__(self) -> Live:
        """Show the panel, where there is a terminal for one."""
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as Panel

            self._shown = self._table()
            self._panel = Panel(
                get_renderable=lambda: self._shown,
                console=Console(stderr=True),
                refresh_per_second=2,
            )
            self._panel.__enter__()
        elif not self.quiet:
            self.say(self.line())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the last state standing."""
        if self._panel is not None:
            self._shown = self._table()
            self._panel.__exit__(kind, error, at)
        elif not self.quiet:
            self.say(self.line())

    def say(self, text: str) -> None:
        """A line of its own, above the panel."""
        text = printable(masked(text))
        if self._panel is not None:
            self._panel.console.print(text, markup=False, highlight=False)
        else:
            print(wrapped(text), file=sys.stderr, flush=True)

    def put(self, event: Event) -> None:
        """See :class:`study.loop.brief.View`."""
        if not isinstance(event, Ended):
            return
        began = time.monotonic()
        if self.quiet or began < self._next_look:
            return
        if self._panel is None:
            self.say(self.line())
        else:
            self._shown = self._table()
        # With many trials a look takes longer: it stays a twentieth of the time.
        cost = time.monotonic() - began
        least = LINE_SECONDS if self._panel is None else PANEL_SECONDS
        self._next_look = time.monotonic() + max(least, 20 * cost)

    def line(self) -> str:
        """Everything in one line of at most 80 characters; what matters least gives way."""
        counts = self.state.counts()
        if not self.state.ended:
            return f"0/{self.trials} trials  starting the workers"
        front, left = self.front(), self.seconds_left()
        volume = self._shown_value(self._hypervolume(front), 3)
        named = {name: counts[name] for name in ("stopped", "failed", "out_of_memory", "answered")}
        named = {name.replace("_", " "): count for name, count in named.items() if count}
        parts = {
            "trials": f"{counts['ran']}/{self.trials} trials",
            "running": f"{counts['running']} running",
            **{name: f"{count} {name}" for name, count in named.items()},
            "front": f"front {len(front)}",
            "hypervolume": f"hypervolume {volume}",
            "left": "" if left is None else f"{_duration(left)} left",
        }
        for name in ("", "answered", "hypervolume", "stopped", "front", "running"):
            parts.pop(name, None)
            line = "  ".join(part for part in parts.values() if part)
            if len(line) <= WIDTH:
                break
        return line

    def front(self) -> list[tuple[float, float, str]]:
        """Metric, ratio and setting of the points that no other dominates, by ratio."""
        points, losses = [], []
        for trial in self.state.searched:
            outcome = trial.record.outcome if trial.record else None
            if not (outcome and outcome.size and outcome.sha256 and self._met(trial)):
                continue
            if (further := final(self._also, outcome)) is not None:
                value, ratio = outcome.metrics["val"][self.objective.name], outcome.size.ratio
                points.append((value, ratio, setting(trial.params)))
                losses.append((self.objective.loss(value), -ratio, *further))
        if not points:
            return []
        keep = non_dominated(losses)
        return sorted((p for p, k in zip(points, keep, strict=True) if k), key=lambda p: p[1])

    def _hypervolume(self, front: list[tuple[float, float, str]]) -> float:
        if not front:
            return 0.0
        loss = self.objective.loss
        losses = [(loss(metric), -math.log2(ratio)) for metric, ratio, _ in front]
        return hypervolume(losses, (loss(self.chance), 0.0))

    def _shown_value(self, value: float, decimals: int) -> str:
        return f"{value:.{decimals}f}" if self.objective.is_fraction else f"{value:.5g}"

    def seconds_left(self) -> float | None:
        """By what trials took; no more than the budget leaves. None before the first has ended."""
        left = seconds_left(self.state, self.trials, time.time())
        if left is None or self.budget is None:
            return left
        return max(0.0, min(left, self.budget - time.monotonic() + self._began))

    def _table(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        front = self.front()
        table = Table(box=None, pad_edge=False)
        for name in ("ratio", f"val {self.objective.name}", "setting"):
            table.add_column(name, justify="left" if name == "setting" else "right")
        for value, ratio, text in _spread(front, FRONT_ROWS):
            shown = self._shown_value(value, 4)
            table.add_row(f"{ratio:.2f}x", shown, Text(text, overflow="ellipsis"))
        return Group(Text(self.line()), table)


def setting(params: Mapping[str, Any]) -> str:
    """The suggestion in a few words."""
    shown = [str(params.get(key)) for key in ("method", "init", "adapter") if params.get(key)]
    return printable(" ".join(shown + ([f"rank {params['rank']}"] if "rank" in params else [])))


def _spread(rows: list[tuple[float, float, str]], most: int) -> list[tuple[float, float, str]]:
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"

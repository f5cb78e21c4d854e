"""One thing that was looked at before, or after, a cluster starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and, if that is a problem, how it is mended.

    A ``warning`` is told, and stops nothing.
    """

    name: str
    found: str = ""
    problem: str = ""
    mend: str = ""
    warning: bool = False

    @property
    def failed(self) -> bool:
        """Whether it stops a launch."""
        return bool(self.problem) and not self.warning

    def __str__(self) -> str:
        """One line: ``ok``, ``warn`` or ``FAIL``, the name, and what is to be said."""
        word = "ok  " if not self.problem else "warn" if self.warning else "FAIL"
        mend = f"; {self.mend}" if self.problem and self.mend else ""
        return f"{word}  {self.name}: {self.problem or self.found}{mend}"

"""Quasi-random search."""

from typing import Any

from study.searchers.base import SEARCHERS, Searcher, Turn


@SEARCHERS.register("quasi_random")
class QuasiRandom(Searcher):
    """A scrambled Sobol sequence: fills the space more evenly than random draws (Owen 1998).

    One dimension a knob, whether or not a trial has it: every knob is spread evenly, those that
    depend on others too. The i-th suggestion is the i-th point of the sequence.
    """

    def sampler(self, turn: Turn) -> Any:
        """See :class:`Searcher`."""
        from study.searchers.sobol import Sobol

        return Sobol(turn)

"""What no trial changes is computed once, before the first of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from compression.rules import target_layers
from compression.stats import Need
from study.config import StudyConfig
from study.signals import Interrupted, Interrupts, leave
from study.space.space import Space
from study.terminal.live import said
from trainables.record import NONE, Choice, LayerRule, Trial
from trainables.tasks import Prepared, Task


def prepared(config: StudyConfig) -> Prepared:
    """The dense model and the data, with calibration examples if some trial needs any."""
    data = config.task.prepare(config.seed)
    data.model.eval()  # as trials compute: a pass in training mode would move BatchNorm
    if config.search_space().needs():
        from trainables.calibration import calibrated

        data = calibrated(data, config.calibration.samples, config.seed)
    return data


@dataclass(frozen=True)
class Pass:
    """What is to be computed once: the statistics that methods need, features for each ``rest``."""

    task: Choice
    needs: frozenset[Need]
    rests: tuple[Choice, ...]
    training: bool
    precision: str

    @classmethod
    def of(cls, config: StudyConfig, space: Space) -> Pass:
        """Of a study."""
        needs, rests = space.dense_needs(), tuple(space.rests())
        return cls(space.task, needs, rests, config.epochs > 0, config.precision)

    def run(self, task: Task, data: Prepared, say: Callable[[str], None]) -> bool:
        """Make the features and statistics that trials stand on; whether they may use features.

        They may where nothing can be divided, too. What a full disk refused once, it would refuse
        each of them.
        """
        import torch

        from trainables.build import build
        from trainables.calibration import statistics
        from trainables.features import prefetch
        from trainables.frozen.forward_pass import all_cores
        from trainables.hardware.allocator import keep_freed_memory
        from trainables.hardware.memory import release

        keep_freed_memory()
        calibration = 0 if data.calibration is None else len(data.calibration)
        changed, cached = target_layers(data.model, task.targets), True
        dtype, notes = getattr(torch, self.precision), dict[str, None]()
        if self.needs:
            with all_cores():
                seconds = statistics(task, data, self.needs).seconds
            say(f"calibrated on {calibration} examples of train in {seconds:.1f} s")
        for rest in self.rests:  # each alters what comes before the cut, too
            plain = Trial(self.task, (LayerRule((NONE,)),), rest=rest)
            model = data.model if rest == NONE else build(task, data, plain)
            found = prefetch(task, data, changed, model=model, training=self.training, dtype=dtype)
            cached = cached and not found.failed
            notes[found.note] = None
        for note in notes:
            say(note)
        release()  # of what the pass held of a card, that trials are to share
        return cached


def run_once(
    config: StudyConfig,
    space: Space,
    data: Prepared,
    say: Callable[[str], None],
    interrupts: Interrupts,
) -> bool:
    """A study's :class:`Pass` on this machine; whether trials may ask for features."""
    with suppress(Interrupted), interrupts.calling(leave), said(say):
        return Pass.of(config, space).run(config.task, data, say)
    return True

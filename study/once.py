"""What no trial changes is computed once, before the first of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from compression.rules import target_layers
from study.config import StudyConfig
from study.live import said
from study.signals import Interrupted, Interrupts, leave
from study.space import Space
from trainables.record import NONE, LayerRule, Trial
from trainables.tasks import Prepared


def prepared(config: StudyConfig) -> Prepared:
    """The dense model and the data, with calibration examples if some trial needs any."""
    data = config.task.prepare(config.seed)
    data.model.eval()  # as trials compute: a pass in training mode would move BatchNorm
    if config.search_space().needs():
        from trainables.calibration import calibrated

        data = calibrated(data, config.calibration.samples, config.seed)
    return data


def run_once(
    config: StudyConfig,
    space: Space,
    data: Prepared,
    say: Callable[[str], None],
    interrupts: Interrupts,
) -> bool:
    """Make the features and statistics that trials stand on; whether they may ask for features.

    They may where nothing can be divided, too. What a full disk refused once, it would refuse each
    of them.
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
    changed, cached = target_layers(data.model, config.task.targets), True
    training, dtype = config.epochs > 0, getattr(torch, config.precision)
    notes: dict[str, None] = {}
    with suppress(Interrupted), interrupts.calling(leave), said(say):
        if needs := space.dense_needs():
            with all_cores():
                seconds = statistics(config.task, data, needs).seconds
            say(f"calibrated on {calibration} examples of train in {seconds:.1f} s")
        for rest in space.rests():  # each alters what comes before the cut, too
            plain = Trial(space.task, (LayerRule((NONE,)),), rest=rest)
            model = data.model if rest == NONE else build(config.task, data, plain)
            found = prefetch(
                config.task, data, changed, model=model, training=training, dtype=dtype
            )
            cached = cached and not found.failed
            notes[found.note] = None
        for note in notes:
            say(note)
    release()  # of what the pass held of a card, that trials are to share
    return cached

"""Ray Tune as the engine: it places trials on workers and brings their results to the driver."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from compression.registry import InvalidSetting
from study.config import StudyConfig
from study.loop.driver import Driver
from study.loop.limits import budget_remarks
from study.loop.placement import Node, Placement, largest, nodes_of, place
from study.loop.schedule import JudgeScheduler, StopWhen
from study.loop.search import StudySearch
from study.once import Pass
from trainables.hardware.peak import Peak
from trainables.record import Trial, canonical
from trainables.trainable import CompressionTrial, Door, Shared, measure_peak


def placed(config: StudyConfig, shared: Shared, promised: Sequence[Node] = ()) -> Placement:
    """What trials get of the machines that Ray knows, and of those that it would start.

    Raises:
        InvalidSetting: as :func:`study.loop.placement.place`; or GPUs are budgeted, and none is
            there.
    """
    import ray

    trial = largest(config.search_space(), config.seed)
    measure = partial(_measured, shared, trial, config.resources.cpus)
    nodes = [*nodes_of(ray.nodes()), *promised]  # type: ignore[no-untyped-call]
    placement = place(config.resources, config.concurrency, nodes, measure)
    if config.accelerator_budget is not None and not placement.gpus:
        text = "no machine has a GPU whose seconds could be counted; set time_budget instead"
        raise InvalidSetting([f"{config.where('accelerator_budget')}: {text}"])
    return replace(placement, remarks=(*placement.remarks, *budget_remarks(config)))


def _measured(shared: Shared, trial: Trial, cpus: int) -> Peak:
    """The peak of a training step in a worker with a card to itself. If it dies, no figure."""
    import ray

    task: Any = ray.remote(num_cpus=cpus, num_gpus=1, max_retries=0)(measure_peak)
    try:
        return Peak(**ray.get(task.remote(shared, canonical(trial))))
    except ray.exceptions.RayError as error:
        return Peak(error=str(error).strip().splitlines()[-1])


def once_for_all(
    passed: Pass, shared: Shared, placement: Placement, say: Callable[[str], None]
) -> bool:
    """What no trial changes, made by one machine of a cluster; whether trials may use features.

    Where that fails each machine makes its own.
    """
    import ray

    task: Any = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=1)(_once)
    try:
        cached, notes = ray.get(task.remote(passed, shared))
    except ray.exceptions.RayError as error:
        say(f"each machine makes its own features: {str(error).strip().splitlines()[-1]}")
        return True
    for note in notes:
        say(note)
    return bool(cached)


def _once(passed: Pass, shared: Shared) -> tuple[bool, list[str]]:
    notes, context = list[str](), shared.fetch()
    return passed.run(context.task, context.data, notes.append), notes


def tune_until_done(
    driver: Driver, search: StudySearch, shared: Shared, placement: Placement
) -> None:
    """Run trials until the driver has no more, or is told to stop.

    Tune's own snapshots, loggers and signal handler are off: what it would restore, the study log
    restores better.
    """
    import ray
    from ray import tune

    search.source = driver.next
    # So many workers may be on their way at a time: they start side by side.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(placement.concurrency)
    workers = min(placement.concurrency, driver.left)
    door = ray.remote(num_cpus=0)(Door).remote(workers) if workers > 1 else None
    trainable: Any = tune.with_parameters(
        CompressionTrial, shared=shared, device=placement.device, door=door
    )
    with tempfile.TemporaryDirectory() as scratch:
        tune.run(
            tune.with_resources(trainable, placement.resources),
            name="study",
            storage_path=scratch,
            search_alg=search,
            scheduler=JudgeScheduler(driver),
            stop=StopWhen(driver.should_stop),
            num_samples=-1,
            reuse_actors=True,
            raise_on_failed_trial=False,
            log_to_file=False,
            verbose=0,
        )

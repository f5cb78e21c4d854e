"""Ray Tune as the engine: it places trials on workers and brings their results to the driver."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from clusters.kinds.local import connected
from study.driver import Driver
from study.schedule import JudgeScheduler, StopWhen
from study.search import StudySearch
from trainables.trainable import CompressionTrial, Context, Loadable, Shared


def tune_until_done(
    driver: Driver,
    search: StudySearch,
    context: Context,
    plugins: Sequence[Loadable],
    address: str | None,
    workers: int,
    on_connected: Callable[[], None],
) -> None:
    """Run trials until the driver has no more, or is told to stop.

    Tune's own snapshots, loggers and signal handler are off: what it would restore, the study log
    restores better.
    """
    with connected(address, workers), tempfile.TemporaryDirectory() as scratch:
        import ray
        from ray import tune

        on_connected()
        search.source = driver.next
        shared = Shared(plugins, (ray.put(context),))
        trainable: Any = tune.with_parameters(CompressionTrial, shared=shared)
        tune.run(
            tune.with_resources(trainable, {"cpu": context.threads}),
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

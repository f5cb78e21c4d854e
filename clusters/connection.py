"""Ray on this machine, or a Ray cluster that runs already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from clusters.privacy import private

# Nothing phones home; Ray Tune's own snapshots, loggers, signal handler and folders are not used:
# the study log is the store.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Else Tune, too, runs again a trial whose machine was preempted: twice the work, once recorded.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# Read by OpenMP, MKL, OpenBLAS, numexpr and Accelerate.
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def limits(threads: int) -> dict[str, str]:
    """Environment of a process whose libraries are to use so many threads each."""
    return dict.fromkeys(THREADS, str(threads))


@contextmanager
def connected(
    address: str | None, cpus: int, gpus: int | None = None, threads: int = 1
) -> Iterator[None]:
    """Ray, started here with so many ``cpus`` and ``gpus`` unless ``address`` names a cluster.

    ``gpus`` of None are those that Ray finds. Workers begin with ``threads`` threads to a library:
    most read that once, when they are imported.

    A Ray that is started here is :mod:`private <clusters.privacy>`; a cluster is as its owner made
    it. A Ray that runs in this process already is used as it is and left running. Environment and
    log levels are put back.
    """
    few = limits(threads)
    with _environment(few), _quiet():
        import ray

        if ray.is_initialized():
            yield
            return
        with nullcontext() if address else private():
            ray.init(
                # Never join by accident a cluster that a stale file or variable names.
                address=address or "local",
                num_cpus=None if address else cpus,
                num_gpus=None if address else gpus,
                # Workers on this machine inherit; those of a running cluster have to be told.
                runtime_env={"env_vars": few} if address else None,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            try:
                yield
            finally:
                ray.shutdown()


@contextmanager
def _environment(few: Mapping[str, str]) -> Iterator[None]:
    ours = {**few, **{key: value for key, value in ENVIRONMENT.items() if key not in os.environ}}
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

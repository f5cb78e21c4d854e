"""What all tests share: one thread, a cache and a tracking store of their own, hypothesis."""

import os
import tempfile

from hypothesis import HealthCheck, settings

# Read when torch is first imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

# One cache for the session: tests neither read nor fill the user's, and pretrain each model once.
_CACHE = tempfile.TemporaryDirectory(prefix="paretune-tests-")
os.environ["PARETUNE_CACHE"] = _CACHE.name
os.environ["PARETUNE_STATE"] = f"{_CACHE.name}/state"

for _name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[_name]

settings.register_profile(
    "paretune",
    deadline=None,
    max_examples=50,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("paretune")

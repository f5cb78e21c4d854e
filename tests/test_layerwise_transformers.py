"""Layer-wise spaces of transformers: blocks, tied heads, sensitivity behind what is run once."""

import random

import pytest
import text_examples

from compression.model import as_saved
from study.config import make_config
from study.layerwise.repair import Repair, least_bytes
from study.layerwise.sensitivity import measured
from study.layerwise.settings import Settings, predicted
from study.layerwise.sizes import Sizes
from study.layerwise.starts import best, starts
from trainables.build import build, measure_size
from trainables.calibration import calibrated

SPACE = {
    "method": [{"rtn": {"bits": [2, 8], "mode": "asymmetric", "group_size": 16}}, "none"],
    "init": ["zeros"],
    "adapter": ["none", "lora"],
    "rank": [1, 4],
}
TASKS = {
    "decoder": ("causal_lm", {"untie": True}, "each"),
    "bert": ("product_reviews", {}, "blocks"),
}


pytestmark = pytest.mark.slow


class Randomly:
    """Suggestions drawn evenly."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def suggest_categorical(self, name, choices):
        return self.random.choice(choices)

    def suggest_int(self, name, low, high, *, log=False):
        return self.random.randint(low, high)

    def suggest_float(self, name, low, high, *, log=False):
        return self.random.uniform(low, high)


@pytest.fixture(scope="module", params=TASKS)
def study(request, tmp_path_factory):
    name, more, groups = TASKS[request.param]
    own = getattr(text_examples, name)(tmp_path_factory.mktemp(name)) | more
    space = SPACE | {"layerwise": {"groups": groups}}
    config = make_config({"task": {name: own}, "epochs": 1, "space": space})
    data = config.task.prepare(0)
    data.model.eval()
    return config.search_space(), config.task, calibrated(data, 16, 0)


def test_bytes_are_known_beforehand(study):
    space, task, data = study
    sizes = Sizes(space, task, data)
    for seed in range(4):
        trial = space.to_trial(space.define(Randomly(seed)), 0)
        model = build(task, data, trial)
        with as_saved(model):
            assert sizes.file_bytes(trial) == measure_size(model, task, data, trial).file_bytes


def test_more_bytes_are_predicted_to_lose_less(study):
    space, task, data = study
    found = measured(space, task, data, 16, 0)
    for group in space.groups:
        plain = space.group_rules(group, {"method": "none", "adapter": "none"})
        assert abs(found.growths[group.name][plain]) < 1e-4
    settings = Settings(space, Sizes(space, task, data), found.growths)
    least = least_bytes(settings)
    tight, loose = best(settings, least), best(settings, 2 * least)
    assert predicted(loose) <= predicted(tight)
    repair = Repair(settings, round(1.3 * least), fill=True)
    for flat in starts(settings, 3, repair.max_bytes):
        assert settings.file_bytes(flat) <= repair.max_bytes
    for seed in range(3):
        params = repair(space.define(Randomly(seed)))
        assert settings.file_bytes(params) <= repair.max_bytes
        assert repair(params) == params

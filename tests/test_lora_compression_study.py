"""Both configs of LoRA-Compression, on a folder of real JPEGs and a ResNet-18 of random weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from examples import image_folder
from image_helpers import _own_cache  # noqa: F401
from published_sizes import NOMINAL, RANKS

from analysis.load import load_study
from compression.registry import Values
from study.config import load_config
from study.run import DEFAULT, main
from trainables.record import Status

CONFIGS = {
    "lora_compression": {"int1", "block_sparse"},
    "lora_compression_as_published": {"sign", "block_sparse"},
}
PRINTED = {
    "int1": dict(zip(RANKS, NOMINAL["int1"], strict=True)),
    "sign": dict(zip(RANKS, NOMINAL["int1"], strict=True)),
    "block_sparse": dict(zip(RANKS, NOMINAL["sparse"], strict=True)),
}
TASK = "task.image_classification"


def config(name: str) -> Path:
    return DEFAULT.parent / f"{name}.yaml"


@pytest.fixture(scope="module", name="settings")
def _settings(tmp_path_factory):
    """What a machine without ImageNet and its weights has to set, and no more."""
    folder = image_folder(tmp_path_factory.mktemp("images"), classes=8, each=12, size=64)
    return {f"{TASK}.data": str(folder), f"{TASK}.weights": "none", f"{TASK}.labels": "dense"}


def words(settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_grid_is_the_published_one_ten_trials_a_cell(name, settings):
    found = load_config(config(name), settings)
    params = found.search_space().params
    assert set(params["method"].domain.values) == CONFIGS[name]
    assert params["rank"].domain == Values(RANKS[1:])
    assert params["alpha"].domain == Values((8.0, 16.0, 24.0, 32.0, 40.0, 48.0))
    assert params["batch_size"].domain == Values((32, 64, 128, 256, 512))
    for optimizer in ("adam", "sgd"):
        rates = params[f"{optimizer}.lr"].domain
        assert (rates.low, rates.high, rates.log) == (1e-4, 1e-2, True)
    cells = [len(params[key].corners()) for key in ("method", "rank", "init")]
    assert found.trials == 10 * cells[0] * cells[1] * cells[2]
    assert found.epochs == 10
    assert found.task.targets == ("fc",)


def test_each_published_error_is_in_one_config_and_not_in_the_other(settings):
    wrong, right = (
        load_config(config(name), settings).search_space().params
        for name in ("lora_compression_as_published", "lora_compression")
    )
    assert wrong["block_sparse.largest"].domain == Values(("signed",))
    assert wrong["block_sparse.tile_rows"].domain == Values((1,))
    assert wrong["lora.scaling"].domain == Values(("alpha",))
    assert right["int1.scale"].domain == Values(("row",))
    assert right["block_sparse.tile_rows"].domain == Values((4,))
    assert "lora.scaling" not in right
    assert "block_sparse.largest" not in right
    same = {"rank", "alpha", "batch_size", "init", "optimizer", "adam.lr", "sgd.lr"}
    assert {key: wrong[key] for key in same} == {key: right[key] for key in same}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"space.init": "residual"},
            "space.alpha: has no effect under init residual: starts at a delta of its own, at "
            "scale 1; leave it out",
        ),
        (
            {"space.rank": "[2, 1024]"},
            "space.rank: 1024 is above 512, the largest rank of any target layer ('fc')",
        ),
        ({f"{TASK}.data": "/no/where"}, "image_classification.data: there is no folder or file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, changes, line, settings, tmp_path):
    store = {"storage": str(tmp_path), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    asked = words(settings | store | changes)
    done = CliRunner().invoke(main, ["--config", str(config(name)), *asked])
    assert done.exit_code == 2
    (said,) = done.stderr.splitlines()
    assert line in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_study_of_jpegs_has_the_published_ratios(name, settings, tmp_path):
    asked = [*words(settings | {"epochs": "2"}), "--trials", "3", "--name", "s", "--quiet"]
    store = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command = [sys.executable, "-m", "study.run", "--config", str(config(name)), *asked, *store]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    study = load_study(str(tmp_path / "results" / "s"))
    searched = [row.record for row in study.rows if row.role == "search"]
    assert len(searched) == 3
    assert any(r.outcome.status is Status.COMPLETED for r in searched)
    for record in searched:
        if record.outcome.status is Status.FAILED:  # as published some may diverge
            assert record.outcome.error.startswith("NonFinite")
            continue
        (rule,), size = record.trial.layers, record.outcome.size
        assert f"{size.nominal_ratio:.2f}" == PRINTED[rule.methods[0].name][rule.rank]
        assert 1.0245 <= size.ratio <= 1.0445
        assert (rule.alpha is None) == (rule.init.name == "residual")
    described = json.loads((tmp_path / "results" / "s" / "study.json").read_text())
    assert described["config"]["published"] == ["lora_compression"]
    assert (tmp_path / "results" / "s" / "report" / "published.csv").stat().st_size

"""A study whose primary metric is to be made small, end to end, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from studies import SMALL, run, state

from analysis.columns import RELATIVE

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

TASK = '''
import torch
from torch import nn

from trainables.scoring.metrics import perplexity
from trainables.record import Direction, Fingerprint, Objective
from trainables.tasks import TASKS, Prepared, TensorSplit, Task


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def split(n, seed):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return TensorSplit(x, x[:, :3].argmax(1))


@TASKS.register("surprise")
class Surprise(Task):
    """Which of the first three of eight numbers is the largest, by perplexity."""

    chance = 3.0
    objective = Objective("perplexity", Direction.MINIMIZE)

    def architecture(self):
        return net()

    def prepare(self, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, data = net(), (split(400, 1), split(200, 2))
            optimizer = torch.optim.Adam(model.parameters(), 0.02)
            for _ in range(150):
                optimizer.zero_grad()
                self.loss(model(data[0].tensors), data[0].labels).backward()
                optimizer.step()
        weights = str(sum(p.double().sum().item() for p in model.parameters()))
        return Prepared(model.eval(), *data, Fingerprint(weights, "surprise"))

    def test(self, seed):
        return split(300, 3)

    def observe(self, outputs, labels):
        nll = nn.functional.cross_entropy(outputs, labels, reduction="none").double()
        return {"nll": nll, "tokens": torch.ones(len(labels))}

    def score(self, observed, labels):
        return {"perplexity": perplexity(observed["nll"], observed["tokens"])}

    def correct(self, observed, labels):
        return None
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def finished(folder):
    (folder / "surprise.py").write_text(TASK)
    config = SMALL.replace("task: digits", "task: surprise") + "plugins: [surprise.py]\n"
    done = run(folder, "--name", "s", config=config)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def table(folder, finished) -> pd.DataFrame:
    return pd.read_csv(folder / "results/s/report/front.csv")


def test_it_shows_the_metric_it_searched_by(finished):
    assert "val, test: perplexity (lower is better)" in finished.stdout.splitlines()
    assert "accuracy" not in finished.stdout


def test_the_study_says_which_way_is_better(folder, finished):
    info = json.loads((folder / "results/s/study.json").read_text())
    assert info["objectives"][0] == {"name": "val_perplexity", "direction": "minimize", "unit": ""}
    assert info["reference"] == {"val_perplexity": 3.0, "log2_ratio": 0.0}


def test_the_front_pays_for_compression_with_perplexity(folder, table):
    assert len(table) >= 2
    assert table.ratio.is_monotonic_increasing
    assert table.val_perplexity.is_monotonic_increasing
    searched = [t.record.outcome for t in state(folder, "s").searched]
    values = [o.metrics["val"]["perplexity"] for o in searched if o.size]
    assert table.val_perplexity.min() == min(values)


def test_the_best_epoch_is_that_of_the_lowest_perplexity(folder, finished):
    curves = [r.outcome for r in state(folder, "s").records if len(r.outcome.curve) > 2]
    for outcome in curves:
        values = [report.metrics["perplexity"] for report in outcome.curve]
        best = outcome.metrics["val"]["perplexity"]
        assert best == values[outcome.best_epoch] == min(values) < max(values)
    assert curves


def test_every_point_is_verified_with_bounds_of_its_drop(folder, table):
    assert table.verified.all()
    assert (table["drop"] <= table.drop_upper).all()
    assert table[RELATIVE].notna().all()
    checks = state(folder, "s").verifications
    dense = next(v for v in checks.values() if not v.drops)
    for row in table.itertuples():
        assert checks[row.trial_id].paired == {}
        worse = row.test_perplexity - dense.metrics["perplexity"]
        assert row.drop == pytest.approx(worse, abs=1e-9)


def test_the_summary_and_the_tables_speak_of_perplexity(folder, table):
    text = (folder / "results/s/report/summary.md").read_text()
    assert "within 1% of dense's perplexity" in text
    assert "paired bootstrap, BCa" in text
    assert " pp" not in text
    names = pq.read_schema(folder / "results/s/records/records.parquet").names
    assert "val_perplexity" in names
    assert "val_accuracy" not in names
    assert (folder / "results/s/report/front.png").stat().st_size > 10_000


def test_mlflow_holds_its_metrics(folder, finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    found = [r.data.metrics for r in runs if r.data.tags.get("verified") == "true"]
    assert found
    for values in found:
        assert {"val/perplexity", "val_perplexity", "test/perplexity"} <= set(values)
        assert "val_accuracy" not in values

"""Examples that are alike come in groups: intervals count groups, wherever a split travels."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import synthetic_study as synthetic
import torch
from pyarrow import fs
from scipy.stats import beta
from test_drops import Scored
from tiny_task import TinyTask, make_trial

from analysis.comparisons import compare
from analysis.findings import findings
from analysis.load import load_study
from analysis.report import picture, write_report
from analysis.stats import FEWEST_GROUPS, drop_upper
from trainables import features
from trainables.build import build
from trainables.frozen.feature_split import FeatureSplit
from trainables.frozen.feature_store import Store
from trainables.frozen.recall import recalling
from trainables.hardware.devices import Resident
from trainables.record import Bounds, Drop, Objective, Paired
from trainables.scoring.bootstrap import bounds, spread
from trainables.scoring.drops import UNSEEN, Drops
from trainables.splits import TensorSplit

ACCURACY = Objective("val_accuracy", unit="fraction")


def shares(observed, labels):
    return (observed["prediction"] == labels).double().mean().item()


TASK = Scored(Objective("accuracy", unit="fraction"), shares)


def compared(model, groups, labels=None):
    """The drop of these predictions against a model that is always right."""
    labels = torch.zeros(len(model), dtype=torch.long) if labels is None else labels
    drops = Drops(TASK, labels, groups)
    drops.take("dense", {"prediction": labels})
    drops.take("model", {"prediction": model})
    return drops.drop("dense", "model")


class Deep(TinyTask):
    """Only the linear layers are compressed."""

    targets = ("6", "8")

    def prepare(self, seed):
        data = super().prepare(seed)
        return replace(data, validation=grouped(data.validation))


def grouped(split):
    return TensorSplit(split.tensors, split.labels, torch.arange(len(split)) // 4)


def test_groups_go_with_a_split_to_another_process():
    split = grouped(TinyTask().test(0))
    assert torch.equal(pickle.loads(pickle.dumps(split)).groups, split.groups)
    assert TinyTask().test(0).groups is None


def test_what_stands_for_a_split_has_its_groups(tmp_path):
    task = Deep()
    data = task.prepare(0)
    model = build(task, data, make_trial())
    stage = features.stage(task, data, model, Store(tmp_path, budget=1 << 30))
    assert isinstance(stage.validation, FeatureSplit)
    recalled = recalling(stage)
    assert recalled is not stage
    sent = pickle.loads(pickle.dumps(stage.validation))
    resident = Resident(data.validation, data.validation.tensors)
    for found in (stage.validation, sent, recalled.validation, resident):
        assert torch.equal(found.groups, data.validation.groups)
    assert stage.train.groups is None


def test_a_split_that_is_sent_holds_its_groups_once(tmp_path):
    task = Deep()
    data = task.prepare(0)
    stage = features.stage(task, data, build(task, data, make_trial()), Store(tmp_path, 1 << 30))
    assert stage.validation.__getstate__()["groups"] is None


def test_whole_groups_are_drawn_and_left_out():
    groups = torch.tensor([7, 3, 7, 7, 3, 9])
    seen = []

    def metric(rows):
        seen.append(rows)
        return float(len(rows))

    taken = spread(metric, 6, groups)
    assert taken.groups == 3
    assert taken.value == 6
    for rows in seen[1:]:
        counts = torch.bincount(rows, minlength=6)
        assert counts[0] == counts[2] == counts[3]
        assert counts[1] == counts[4]
    drawn = [torch.bincount(rows, minlength=6)[[0, 1, 5]].sum() for rows in seen[1:-3]]
    assert set(map(int, drawn)) == {3}
    assert sorted(map(len, seen[-3:])) == [3, 4, 5]
    assert set(taken.left_out.tolist()) == {3.0, 4.0, 5.0}


def test_groups_of_one_are_independent_examples():
    model = (torch.arange(900) % 12 == 0).long()
    alone, each = compared(model, None), compared(model, torch.randperm(900))
    assert each.groups == 900
    assert alone.groups is None
    assert each.absolute.value == alone.absolute.value
    assert each.absolute.high == pytest.approx(alone.absolute.high, rel=0.03)


def test_with_whole_groups_wrong_the_bound_is_that_of_the_groups():
    """200 groups of 10, 30 of them all wrong: what 200 examples would show, not 2,000."""
    groups = torch.arange(2000) // 10
    model = (groups % 20 < 3).long()
    found = compared(model, groups)
    exact = beta.ppf(0.95, 31, 170)  # of 30 in 200, Clopper & Pearson 1934
    assert (found.n, found.groups) == (2000, 200)
    assert found.absolute.value == pytest.approx(0.15)
    assert found.absolute.high == pytest.approx(exact, abs=1 / 200)
    assert found.absolute.high > drop_upper(Paired(2000, 300, 0)) + 0.03
    assert "whole groups" in found.method


def test_the_order_of_groups_and_their_names_change_nothing():
    groups = torch.arange(300) // 10
    model = ((torch.arange(300) * 7) % 23 == 0).long()
    one = compared(model, groups).absolute
    other = compared(model, groups * 5 + 2).absolute
    assert one == other


def test_equal_models_are_no_nearer_than_three_errors():
    found = compared(torch.zeros(400, dtype=torch.long), torch.arange(400) // 10)
    assert found.absolute.high == -found.absolute.low == pytest.approx(UNSEEN / 400)


def test_errors_that_come_together_are_unseen_together():
    """One group of 40 is wrong in all of its 10: three more would be, too."""
    groups = torch.arange(400) // 10
    found = compared((groups == 5).long(), groups)
    assert found.absolute.high >= (10 + UNSEEN * 10) / 400 - 1e-9


def test_one_group_gives_a_drop_and_no_error():
    found = compared(torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.long))
    assert found.groups == 1
    assert found.absolute.value == pytest.approx(1 / 3)


def test_a_group_for_each_example():
    with pytest.raises(ValueError, match="a group for each of 3 examples"):
        Drops(TASK, torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("groups", [FEWEST_GROUPS, 60])
def test_upper_bounds_over_groups_cover_as_often_as_said(groups):
    """Means of skewed groups, in 500 draws of them: from the fewest that certify on."""
    rng, covered = torch.Generator().manual_seed(0), 0
    rows = torch.randint(groups, (1000, groups), generator=rng)
    apart = torch.arange(groups).repeat(groups, 1)[~torch.eye(groups, dtype=torch.bool)]
    for _ in range(500):
        drops = 0.02 - 0.02 * torch.rand(groups, generator=rng, dtype=torch.float64).log()
        left_out = drops[apart.reshape(groups, groups - 1)].mean(1)
        found = bounds(drops.mean().item(), drops[rows].mean(1), left_out, groups)
        covered += found.high >= 0.04
    # 0.95 with three standard errors of 500 draws, and a point that skewness may cost.
    assert 0.91 <= covered / 500 <= 0.98


def clustered(data, groups, half=0.02):
    """The study as tested on groups: pairs stay for flips, drops say how sure they are."""

    def check(old):
        drops = {
            role: Drop(
                "accuracy",
                pair.n,
                Bounds(pair.drop, pair.drop - half, pair.drop + half),
                method="paired bootstrap of groups",
                groups=groups,
            )
            for role, pair in old.paired.items()
        }
        return replace(old, drops=drops)

    checks = {key: check(found) for key, found in data.verifications.items()}
    return replace(data, verifications=checks)


@pytest.fixture(scope="module")
def study():
    return synthetic.study()


def text_of(data, folder):
    write_report(data, fs.LocalFileSystem(), str(folder), formats=("csv", "md"))
    return (folder / "summary.md").read_text()


def test_a_comparison_over_groups_is_that_of_the_groups(study):
    old = next(iter(clustered(study, 40).verifications.values()))
    found = compare(old, "dense", ACCURACY)
    assert (found.n, found.groups, found.pair) == (719, 40, None)
    assert found.upper == found.excess == found.bound == old.drops["dense"].absolute.high
    assert found.sample == "719 examples of 40 groups"
    alone = compare(replace(old, drops={}), "dense", ACCURACY)
    assert alone.pair == old.paired["dense"]
    assert alone.sample == "719 examples"


def test_of_a_drop_in_another_metric_the_pairs_still_count(study):
    old = next(iter(clustered(study, 40).verifications.values()))
    odd = replace(old, drops={k: replace(d, metric="f1") for k, d in old.drops.items()})
    assert compare(odd, "dense", ACCURACY).pair


@pytest.mark.parametrize(("groups", "certified"), [(9, False), (19, False), (20, True)])
def test_too_few_groups_certify_nothing(study, tmp_path, groups, certified):
    data = clustered(study, groups, half=1e-4)
    found = findings(data)
    assert (found.certified is not None) is certified
    text = text_of(data, tmp_path)
    assert (f"not certified: 719 examples of only {groups} groups" in text) is not certified
    assert ("tested on its own" in text) <= certified
    only = "" if certified else "only "
    assert f"tested on 719 examples of {only}{groups} groups" in picture(found).subtitle


def test_a_report_states_examples_and_groups(study, tmp_path):
    text = text_of(clustered(study, 40), tmp_path)
    assert "test 719" in text
    assert "Tested on 719 examples of 40 groups" in text
    assert "Intervals of drops: paired bootstrap of groups." in text
    assert "Tango" not in text
    assert "change sides" not in text
    assert "groups" not in text_of(study, tmp_path / "plain")


def test_groups_survive_the_files_of_a_study(study, tmp_path):
    data = clustered(study, 40)
    loaded = load_study(str(synthetic.write(tmp_path / "s", data)))
    assert loaded.verifications == data.verifications

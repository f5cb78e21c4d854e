"""Artifacts: what is kept at the end is what an all-knowing rule would keep."""

from __future__ import annotations

import pytest
from fake_runner import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

from study.events import Frozen, Member
from study.keeping.retention import Retention, missing
from study.objectives import Aim, aims
from study.state import StudyState
from study.store.files import artifact, probe
from study.store.storage import Storage
from trainables.record import Direction, Objective

POINT = st.tuples(st.sampled_from([0.5, 0.9, 0.905, 0.95, 0.97]), st.sampled_from([1.0, 2.0, 4.0]))


ACCURACY = Objective("accuracy", unit="fraction")
PERPLEXITY = Objective("perplexity", Direction.MINIMIZE)
RATIO, MACS = Objective("ratio"), Objective("macs", Direction.MINIMIZE)


def _aims(*objectives):
    return tuple(Aim(o, lambda outcome: None, lambda report, outcome: None) for o in objectives)


def _losses(objective, point):
    return objective.loss(point[0]), RATIO.loss(point[1])


def _brute(points, margin, objective=ACCURACY):
    def beats(other, metric):
        if objective is ACCURACY:
            return other > metric + margin
        return other * (1 + margin) < metric

    return {
        i
        for i, (metric, ratio) in enumerate(points)
        if not any(r >= ratio and beats(m, metric) for m, r in points)
    }


@pytest.mark.parametrize(("objective", "scale"), [(ACCURACY, 1), (PERPLEXITY, 40)])
@given(st.lists(POINT, max_size=12), st.sampled_from([0.0, 0.01, 0.05]))
def test_kept_is_independent_of_the_order_of_ends(objective, scale, points, margin):
    points = [(metric * scale, ratio) for metric, ratio in points]
    for order in (points, points[::-1]):
        aims = _aims(objective, RATIO)
        keeper = Retention(Storage.open("no-such-folder"), StudyState(), aims, margin)
        for i, point in enumerate(order):
            keeper.admit(str(i), _losses(objective, point))
        assert {int(i) for i in keeper.kept} == _brute(order, margin, objective)


def test_what_was_deleted_before_is_known_and_takes_no_place(tmp_path):
    state, storage = FakeRunner().run().state, Storage.open(tmp_path)
    filed = [record.trial_id for record in state.records if record.outcome.sha256]
    for name in filed[::2]:
        storage.write_bytes(artifact(name), b"file")
        storage.write_bytes(probe(name), b"logits")
    storage.write_bytes(artifact(filed[1]), b"without its logits")
    state.gone = missing(state, storage)
    assert state.gone == set(filed[1::2])
    goals = aims(FakeRunner().config.task)
    assert not set(Retention(storage, state, goals, 0.01).kept) & state.gone


def test_a_frozen_front_keeps_its_files_until_there_is_another(tmp_path):
    state, storage = StudyState(), Storage.open(tmp_path)
    for name in ("old", "other"):
        storage.write_bytes(artifact(name), b"file")
    state.apply(Frozen(1.0, (Member("old", ("old",)),)))
    keeper = Retention(storage, state, _aims(ACCURACY, RATIO), 0.0)
    for name, value in (("old", 0.5), ("other", 0.6), ("best", 0.9)):
        keeper.admit(name, _losses(ACCURACY, (value, 2.0)))
    assert set(keeper.kept) == {"best"}
    assert storage.exists(artifact("old"))
    assert not storage.exists(artifact("other"))


def test_within_a_share_of_the_better_perplexity_is_kept():
    keeper = Retention(Storage.open("no-such-folder"), StudyState(), _aims(PERPLEXITY, RATIO), 0.01)
    for name, value in (("best", 40.0), ("near", 40.39), ("far", 40.41)):
        keeper.admit(name, _losses(PERPLEXITY, (value, 2.0)))
    assert set(keeper.kept) == {"best", "near"}


def test_the_best_in_a_third_objective_is_kept():
    keeper = Retention(
        Storage.open("no-such-folder"), StudyState(), _aims(ACCURACY, RATIO, MACS), 0.01
    )
    for name, losses in (
        ("a", (-0.9, -2.0, 50.0)),
        ("b", (-0.5, -1.0, 40.0)),
        ("c", (-0.5, -1.0, 50.0)),
    ):
        keeper.admit(name, losses)
    assert set(keeper.kept) == {"a", "b"}


def test_files_of_useless_trials_go_and_the_others_stay(tmp_path):
    runner = FakeRunner().run()
    storage = Storage.open(tmp_path)
    for record in runner.state.records:
        storage.write_bytes(artifact(record.trial_id), b"x")
        storage.write_bytes(probe(record.trial_id), b"x")
    goals = aims(runner.config.task)
    keeper = Retention(storage, runner.state, goals, 0.01)
    searched = [t for t in runner.state.ended if t.role == "search"]
    points = [
        (t.record.outcome.metrics["val"]["accuracy"], t.record.outcome.size.ratio) for t in searched
    ]
    wanted = {searched[i].trial_id for i in _brute(points, 0.01)}
    assert set(keeper.kept) == wanted
    assert 0 < len(wanted) < len(searched)
    left = {name.split(".")[0] for name in storage.list("artifacts")}
    roles = {t.trial_id for t in runner.state.ended if t.role != "search"}
    assert left == wanted | roles

"""Artifacts: what is kept at the end is what an all-knowing rule would keep."""

from __future__ import annotations

from fake_runner import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

from study.retention import Retention, artifact, probe
from study.state import StudyState
from study.storage import Storage

POINT = st.tuples(st.sampled_from([0.5, 0.9, 0.905, 0.95, 0.97]), st.sampled_from([1.0, 2.0, 4.0]))


def _brute(points, margin):
    return {
        i
        for i, (metric, ratio) in enumerate(points)
        if not any(r >= ratio and m > metric + margin for m, r in points)
    }


@given(st.lists(POINT, max_size=12), st.sampled_from([0.0, 0.01, 0.05]))
def test_kept_is_independent_of_the_order_of_ends(points, margin):
    for order in (points, points[::-1]):
        keeper = Retention(Storage.open("no-such-folder"), StudyState(), "accuracy", margin)
        for i, point in enumerate(order):
            keeper.admit(str(i), point)
        assert {int(i) for i in keeper.kept} == _brute(order, margin)


def test_files_of_useless_trials_go_and_the_others_stay(tmp_path):
    runner = FakeRunner().run()
    storage = Storage.open(tmp_path)
    for record in runner.state.records:
        storage.write_bytes(artifact(record.trial_id), b"x")
        storage.write_bytes(probe(record.trial_id), b"x")
    keeper = Retention(storage, runner.state, "accuracy", 0.01)
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

"""A study that begins with what an earlier one knows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import optuna
import pytest
from fake_runner import CONFIG, FakeRunner

from compression.registry import InvalidSetting
from study import log
from study.config import parse_config
from study.events import Ended, Inherited, Opened, Suggested
from study.finished import read
from study.retiming import retime
from study.schedulers import Standing
from study.state import Phase, StudyState
from study.store.files import FILE, artifact, probe
from study.store.storage import Storage
from study.warm_start import MOST_STARTS, WarmStart, Wish, plan, problems, take_over
from trainables.record import Fingerprint, Status, from_json, to_json

HERE = Fingerprint("w", "d")  # what the fake runner's trials are run on
INFO = {
    "objectives": [
        {"name": "val_accuracy", "direction": "maximize", "unit": "fraction"},
        {"name": "log2_ratio", "direction": "maximize", "unit": "doublings"},
    ]
}


def written(folder, events, **info):
    """A study's folder with this log."""
    storage = Storage.open(folder)
    storage.write_bytes(log.FILE, b"".join(map(log.to_line, events)))
    storage.write_text(FILE, json.dumps({**INFO, **info}))
    return storage


@pytest.fixture(scope="module")
def events():
    """Of a study of 20 trials, some of which failed."""
    config = parse_config(CONFIG.replace("trials: 12", "trials: 20"))
    return list(FakeRunner(config, fails=lambda trial: trial.optimizer.name == "sgd").run().log)


@pytest.fixture
def source(tmp_path, events):
    return read(written(tmp_path / "old", events))


def space_of(text=CONFIG):
    return parse_config(text).search_space()


def drawn(space, count=50):
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(sampler=sampler)
    return [space.define(study.ask()) for _ in range(count)]


def test_a_space_accepts_what_it_suggests_and_nothing_beside_it():
    space = space_of()
    for params in drawn(space):
        assert problems(space, params) == []
        for key in params:
            assert problems(space, {**params, key: "no such value"})
            less = {k: v for k, v in params.items() if k != key}
            assert problems(space, less)[0] == f"{key} is not set there"
        assert problems(space, {**params, "nothing.else": 1}) == ["nothing.else means nothing here"]


def test_reasons_name_the_knob_and_count_values_of_a_range_as_one():
    space = space_of()
    params = next(p for p in drawn(space) if "adam.lr" in p)
    assert problems(space, {**params, "method": "svd"})[0] == "method svd is not in this space"
    reasons = {problems(space, {**params, "adam.lr": lr})[0] for lr in (1e6, 2e6, 3e-12)}
    assert len(reasons) == 1
    assert "adam.lr is outside" in reasons.pop()


def test_the_same_trials_are_taken_over_and_failed_ones_listed(source):
    warm = plan(source, space_of(), 0, HERE)
    good = [t for t in source.state.searched if t.record.outcome.status is not Status.FAILED]
    assert [t.trial_id for t in warm.trials] == [t.trial_id for t in good]
    assert (warm.taken, warm.starts) == (len(good), ())
    (reason,) = warm.dropped
    assert "failed there: NonFiniteLoss" in reason
    assert len(warm.dropped[reason]) + len(good) == len(source.state.searched)


def _losses(record):
    """Metric and ratio, smaller is better."""
    return -record.outcome.metrics["val"]["accuracy"], -record.outcome.size.log2_ratio


@pytest.mark.parametrize("how", ["data", "epochs", "seed"])
def test_where_only_settings_fit_the_best_are_tried_first(source, how):
    text = CONFIG.replace("epochs: 9", "epochs: 6") if how == "epochs" else CONFIG
    on = Fingerprint("w", "other") if how == "data" else HERE
    space = space_of(text)
    warm = plan(source, space, 1 if how == "seed" else 0, on)
    assert all(how == "epochs" and not t.trial.epochs for t in warm.trials)  # trained or not
    assert 0 < len(warm.starts) <= MOST_STARTS
    taken = {t.trial_id for t in warm.trials}
    points = [
        (_losses(t.record), dict(t.params))
        for t in source.state.searched
        if t.record.outcome.size and t.trial_id not in taken
    ]
    for params in warm.starts:  # a slow twin: none of the others is better in both
        mine = next(losses for losses, known in points if known == params)
        assert not any(x != mine and x[0] <= mine[0] and x[1] <= mine[1] for x, _ in points)
        assert problems(space, params) == []


def test_starts_chosen_on_other_splits_are_said_to_be_so(source):
    for seed, on, other in (
        (0, Fingerprint("w", "other"), True),
        (1, HERE, False),
        (0, Fingerprint("w2", "d"), False),
    ):
        warm = plan(source, space_of(), seed, on)
        assert warm.starts
        assert warm.to_json()["starts_of_other_splits"] is other
        assert WarmStart.from_json(warm.to_json()).other_splits is other
        assert any("seen by that choice" in line for line in warm.lines()) is other


def test_what_the_space_has_not_is_dropped_with_the_reason(source):
    warm = plan(source, space_of(CONFIG.replace(", int1]", "]")), 0, HERE)
    assert warm.taken
    lost = warm.dropped["method int1 is not in this space"]
    methods = {t.trial_id: t.params["method"] for t in source.state.searched}
    assert {methods[i] for i in lost} == {"int1"}
    assert {methods[t.trial_id] for t in warm.trials} == {"rtn"}


def test_nothing_in_common_is_refused_with_the_reasons(source):
    with pytest.raises(
        InvalidSetting, match=r"old has nothing for this study: .*not in this space"
    ):
        plan(source, space_of(CONFIG.replace("[{rtn: {bits: [2, 3, 4]}}, int1]", "[svd]")), 0, HERE)


def test_its_json_brings_back_all_but_what_is_in_the_log(source):
    warm = plan(source, space_of(), 1, HERE)
    again = WarmStart.from_json(json.loads(json.dumps(warm.to_json())))
    assert again == replace(warm, trials=(), folder=None)


def taken_over(warm, folder):
    """Events and what was said."""
    found, said = [], []
    take_over(warm, Storage.open(folder), StudyState(), found.append, said.append)
    return found, said


def test_files_come_along_and_without_one_the_record_has_no_hash(source, tmp_path):
    warm = plan(source, space_of(), 0, HERE)
    first, second, third = warm.trials[:3]
    data = b"a file"
    outcome = replace(first.record.outcome, sha256=hashlib.sha256(data).hexdigest())
    first = replace(first, record=replace(first.record, outcome=outcome))
    for trial in (first, second):  # that of the second is not the one that was measured
        warm.folder.write_bytes(artifact(trial.trial_id), data)
        warm.folder.write_bytes(probe(trial.trial_id), b"logits")
    warm = replace(warm, trials=(first, second, third), taken=3)
    found, said = taken_over(warm, tmp_path / "new")
    assert [e.number for e in found] == [0, 1, 2]
    assert [e.record.outcome.sha256 for e in found] == [outcome.sha256, None, None]
    assert all(from_json(Inherited, to_json(e), "event") == e for e in found)
    new = Storage.open(tmp_path / "new")
    assert new.read_bytes(artifact(first.trial_id)) == data
    assert new.list("artifacts") == sorted(
        f"{first.trial_id}{end}" for end in (".safetensors", ".probe.safetensors")
    )
    assert found[0].source == "old"
    assert "3 trials taken over" in said[0]


def test_from_another_storage_the_source_is_a_place_that_can_be_found(source, tmp_path):
    found, _ = taken_over(plan(source, space_of(), 0, HERE), tmp_path / "elsewhere" / "new")
    assert found[0].source == source.storage.uri


def test_a_study_that_ended_before_it_took_over_is_not_gone_on_with(source, tmp_path):
    known = WarmStart.from_json(plan(source, space_of(), 0, HERE).to_json())
    with pytest.raises(InvalidSetting, match="start anew"):
        taken_over(known, tmp_path / "new")


@pytest.fixture
def bare(source, tmp_path):
    """The first events of a study that takes over, from a study whose files are gone."""
    found, _ = taken_over(plan(source, space_of(), 0, HERE), tmp_path / "new")
    return [Opened(1.0, "id"), *found]


@pytest.fixture
def inherited(bare):
    """As :func:`bare`, with the files."""
    return [bare[0], *(_with(e, sha256="ab" * 32) for e in bare[1:])]


def _with(event, **outcome):
    return replace(
        event, record=replace(event.record, outcome=replace(event.record.outcome, **outcome))
    )


def test_what_came_without_its_file_is_run_when_it_is_suggested(bare):
    ids = {e.trial_id for e in bare[1:]}
    runner = FakeRunner(parse_config(CONFIG.replace("trials: 12", "trials: 60")), events=bare).run()
    ran = {e.trial_id for e in runner.log if isinstance(e, Ended) and e.number >= 0} & ids
    assert ran
    assert all(runner.state.record_of(i).outcome.sha256 for i in ran)
    assert all(runner.state.has_file(t) for t in runner.state.searched if t.trial_id in ran)
    answered = {t.trial_id for t in runner.state.trials.values() if t.phase is Phase.ANSWERED}
    assert all(runner.state.record_of(i).outcome.sha256 for i in answered & ids)


def test_latency_is_by_this_studys_own_table(bare):
    events = [bare[0], *(_with(e, latency_ms=99.0) for e in bare[1:])]
    state = StudyState(events)
    again = retime(state, events, lambda trial: 2.0 * len(trial.layers))
    found = [t.record for t in StudyState(again).searched]
    assert found == [t.record for t in state.searched]
    assert [r.outcome.latency_ms for r in found] == [2.0 * len(r.trial.layers) for r in found]
    assert {state.record_of(r.trial_id) == r for r in found} == {True}
    unknown = retime(state, again, lambda trial: None)
    assert {e.record.outcome.latency_ms for e in unknown[1:]} == {None}


def test_a_trials_own_latency_stays_where_no_table_has_it(events):
    own = [_with(e, latency_ms=3.0) if isinstance(e, Ended) else e for e in events]
    assert retime(StudyState(own), own, lambda trial: None) == own


def test_what_is_taken_over_costs_nothing_and_is_not_run_again(inherited):
    ids = {e.trial_id for e in inherited if isinstance(e, Inherited)}
    runner = FakeRunner(events=inherited)
    assert runner.driver.searched == 0
    runner.run()
    assert runner.driver.searched == runner.config.trials
    ran = [e for e in runner.log if isinstance(e, Ended) and e.number >= 0]
    filed = {e.trial_id for e in inherited[1:] if e.record.outcome.sha256}
    assert filed
    assert not filed & {e.trial_id for e in ran}
    first = min(e.number for e in runner.log if isinstance(e, Suggested) and e.number >= 0)
    assert first == len(ids)
    state = StudyState(runner.log)
    assert state.counts()["inherited"] == len(ids)
    assert ids <= {t.trial_id for t in state.searched}


def test_rungs_hold_newcomers_against_what_was_taken_over(inherited):
    config = parse_config(CONFIG + "scheduler: {asha: {eta: 2}}\n")
    poor = (0.0, 0.0)  # an accuracy of nothing at the dense model's size
    rungs = FakeRunner(config, events=inherited).driver._judge.rungs
    first = config.scheduler.milestones(_budget(config))[0]
    assert not rungs.on_report("new", Standing(first, poor))
    assert FakeRunner(config).driver._judge.rungs.on_report("new", Standing(first, poor))


def _budget(config):
    from study.schedulers import Budget

    return Budget(config.epochs)


def test_a_resumed_study_goes_on_as_an_undisturbed_one_would(inherited):
    whole = FakeRunner(events=inherited).run()
    broken = FakeRunner(events=inherited, breaks_after=len(inherited) + 30)
    with pytest.raises(InterruptedError):
        broken.run()
    again = FakeRunner(events=list(broken.log)).run()

    def essence(runner):
        trials = StudyState(runner.log).trials
        return {n: (t.trial_id, t.phase, dict(t.params)) for n, t in trials.items()}

    assert essence(again) == essence(whole)


def test_start_points_come_first_after_what_was_taken_over(source, inherited):
    starts = plan(source, space_of(), 1, HERE).starts
    runner = FakeRunner(events=inherited)
    runner.search._starts = starts
    asked = [runner.search.ask(len(inherited) + i) for i in range(len(starts))]
    assert asked == [dict(params) for params in starts]


def wish(folder, source, name="new", resume=False):
    return Wish(source, str(folder), name, resume)


def test_wishes_that_cannot_be_met_say_why(source, tmp_path):
    space = space_of()
    assert wish(tmp_path, None).answer(space, 0) is None
    assert wish(tmp_path, "old").answer(space, 0).source == "old"
    assert wish(tmp_path, str(tmp_path / "old")).answer(space, 0).source == "old"
    with pytest.raises(InvalidSetting, match="--warm-start: no study 'odl'.*there: old"):
        wish(tmp_path, "odl").answer(space, 0)
    with pytest.raises(InvalidSetting, match="no source for itself"):
        wish(tmp_path, "old", "old").answer(space, 0)


def test_a_study_that_goes_on_keeps_to_its_source(source, tmp_path, events):
    space = space_of()
    warm = plan(source, space, 0, HERE)
    written(tmp_path / "new", events, warm_start=warm.to_json())
    written(tmp_path / "cold", events, warm_start=None)
    kept = replace(warm, trials=(), folder=None)
    assert wish(tmp_path, None, resume=True).answer(space, 0) == kept
    assert wish(tmp_path, "old", resume=True).answer(space, 0) == kept
    with pytest.raises(InvalidSetting, match="began with"):
        wish(tmp_path, "cold", resume=True).answer(space, 0)
    with pytest.raises(InvalidSetting, match="takes nothing over"):
        wish(tmp_path, "old", "cold", resume=True).answer(space, 0)
    assert wish(tmp_path, None, "cold", resume=True).answer(space, 0) is None


def test_a_trial_that_was_taken_over_has_its_curve_and_source(inherited):
    state = StudyState(inherited)
    for trial in state.trials.values():
        assert trial.phase is Phase.INHERITED
        assert tuple(trial.reports) == trial.record.outcome.curve
        assert (trial.source, trial.starts) == ("old", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_study_begins_with_what_another_knows(tmp_path):
    from mlflow import MlflowClient
    from studies import SMALL, run, state

    assert run(tmp_path, "--name", "old").returncode == 0
    wider = SMALL.replace("rank: [1, 2]", "rank: [1, 2, 4]")
    done = run(tmp_path, "--name", "new", "--warm-start", "old", config=wider)
    assert done.returncode == 0, done.stderr
    assert "trials taken over" in done.stderr
    new = state(tmp_path, "new")
    counts = new.counts()
    assert counts["inherited"] > 0
    assert counts["completed"] + counts["stopped"] + counts["failed"] == 8  # as many as were asked
    members = {m.trial_id for m in new.frozen.members}
    assert all(new.verifications[i].verified for i in members)
    inherited = {t.trial_id for t in new.trials.values() if t.source}
    assert members & inherited  # the old front's files came along
    found = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = found.search_runs(
        [e.experiment_id for e in found.search_experiments()], "tags.inherited_from = 'old'"
    )
    assert {r.data.tags["paretune.trial"] for r in runs} == inherited
    assert all(r.info.status == "FINISHED" and "ratio" in r.data.metrics for r in runs)
    summary = (tmp_path / "results/new/report/summary.md").read_text()
    assert f"Taken over from an earlier study: {counts['inherited']}." in summary
    again = run(tmp_path, "--name", "new", "--resume", "--trials", "9", config=wider)
    assert again.returncode == 0, again.stderr
    assert len(state(tmp_path, "new").ended) == len(new.ended) + 1
    refused = run(tmp_path, "--name", "none", "--warm-start", "old", config=SMALL.replace(
        "[{rtn: {bits: [2, 3, 4]}}, int1]", "[svd]"))  # fmt: skip
    assert refused.returncode == 2
    assert refused.stderr.startswith("--warm-start: old has nothing for this study")
    assert not (tmp_path / "results/none").exists()

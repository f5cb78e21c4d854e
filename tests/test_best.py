"""The point asked for on a finished front."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import record, size, trial

from analysis.findings import findings
from analysis.fronts import knee, non_dominated
from analysis.load import Row, StudyData
from analysis.summary import headline
from compression.registry import InvalidSetting
from study import log
from study.best import as_json, loading, main
from study.errors import StudyError
from study.events import Ended, Frozen, Member, Opened, Suggested, Verified
from study.finished import Finished, read
from study.front.asked import choose, smallest_certified
from study.front.bounds import bounds, nearest
from study.front.points import front
from study.objectives import final
from study.state import StudyState
from study.store.files import FILE, artifact
from study.store.storage import Storage
from trainables.record import Choice, Paired, Verification

FRACTION = {"name": "val_accuracy", "direction": "maximize", "unit": "fraction"}
DOUBLINGS = {"name": "log2_ratio", "direction": "maximize", "unit": "doublings"}
DENSE_ACCURACY = 0.95


def ended(number, role, made):
    yield Suggested(number, role, {}, made.trial, made.trial_id)
    yield Ended(number, made.trial_id, made, 2.0)


def record_of(method, sized, accuracy, **more):
    exact = {"val": {"accuracy": accuracy}}
    return record(trial(Choice(method), **more), sized, accuracy, metrics=exact)


def events_of(points, frozen=True, latency=None, paired=None):
    """A study whose search found these (bits, accuracy); the first row is the dense model.

    ``paired`` are each one's test examples: all, right only by dense, right only by the model.
    """
    dense = record_of("none", size(32), DENSE_ACCURACY, adapter="none")
    found = [Opened(1.0, "id"), *ended(-1, "dense", dense)]
    made = [
        record_of("rtn", size(bits), accuracy, lr=1e-3 * (number + 1))
        for number, (bits, accuracy) in enumerate(points)
    ]
    for number, one in enumerate(made):
        found += ended(number, "search", one)
    if frozen:
        found.append(Frozen(3.0, tuple(Member(one.trial_id, (one.trial_id,)) for one in made)))
        for one, pair in zip(made, paired or [(100, 7, 2)] * len(made), strict=True):
            tested = Verification(
                one.trial_id,
                one.outcome.sha256,
                one.outcome.size.file_bytes,
                {"accuracy": 0.9},
                {"dense": Paired(*pair)},
                latency_ms=latency,
            )
            found.append(Verified(tested))
    return found


def study_of(points, **more):
    info = {"objectives": [FRACTION]}
    return Finished("made", Storage.open("nowhere"), info, StudyState(events_of(points, **more)))


FRONT = [(8.0, 0.96), (4.0, 0.94), (3.0, 0.90), (1.1, 0.60)]  # bits, accuracy
rows = st.lists(
    # Accuracies are counts / n: what is nearer to a bound than that is taken to keep it.
    st.tuples(st.floats(1.0, 16.0), st.integers(1000, 10_000).map(lambda k: k / 10_000)),
    min_size=1,
    max_size=12,
    unique=True,
)


def asked(study, **amounts):
    return bounds(study, amounts)


@given(rows, st.floats(0.0, 1.0), st.integers(1_000, 20_000))
def test_the_choice_is_what_trying_all_of_them_gives(points, least, most):
    study = study_of(points, frozen=False)
    shown = front(study)
    wanted = asked(study, min_accuracy=f"{least:.4f}", max_bytes=str(most))
    small, good = asked(study, max_bytes=str(most)), asked(study, min_accuracy=f"{least:.4f}")
    for chosen, kept, order in (
        (choose(shown, small, False), lambda p: p.file_bytes <= most, lambda p: -p.value),
        (choose(shown, good, False), lambda p: p.value >= float(f"{least:.4f}"),
         lambda p: p.file_bytes),
        (choose(shown, wanted, False), lambda p: p.file_bytes <= most
         and p.value >= float(f"{least:.4f}"), lambda p: p.file_bytes),
    ):  # fmt: skip
        rivals = [p for p in shown if kept(p)]
        assert (chosen is None) == (not rivals)
        if chosen is not None:
            assert kept(chosen)
            assert order(chosen) == min(map(order, rivals))


@given(rows)
def test_a_study_that_has_not_ended_shows_its_front_as_it_is(points):
    study = study_of(points, frozen=False)
    trials = study.state.searched
    mask = non_dominated([final(study.aims, t.record.outcome) for t in trials])
    assert {p.member.trial_id for p in front(study)} == {
        t.trial_id for t, keep in zip(trials, mask, strict=True) if keep
    }
    ratios = [p.ratio for p in front(study)]
    assert ratios == sorted(ratios)


LOST = st.lists(st.integers(0, 12), min_size=len(FRONT), max_size=len(FRONT))


@given(LOST, st.sampled_from([719, 5000]), st.booleans())
def test_the_smallest_certified_model_is_the_one_that_the_report_says(lost, n, compared):
    study = study_of(FRONT, paired=[(n, count, 1) for count in lost])
    if compared:  # on validation too, where the last of the front changed least
        for i, (key, check) in enumerate(study.state.verifications.items()):
            pair = {"dense": Paired(300, len(lost) - i, 0)}
            study.state.verifications[key] = replace(check, on_validation=pair)
    rows = tuple(Row(t.record, t.role, t.number) for t in study.state.ended)
    members = [asdict(member) for member in study.state.frozen.members]
    info = {"objectives": [FRACTION, DOUBLINGS], "front": members}
    reported = findings(StudyData("made", info, rows, study.state.verifications))
    if reported.certified is None:
        with pytest.raises(StudyError, match="no model of the front is certified within 1 point"):
            smallest_certified(front(study))
        assert "certify the first in order" in headline(reported)
    else:
        chosen = smallest_certified(front(study))
        assert chosen.member.trial_id == reported.certified.values["trial_id"]


def test_where_none_is_certified_it_says_how_near_it_comes_and_what_can_be_done():
    study = study_of(FRONT)
    with pytest.raises(StudyError, match="100 examples certify the first in order, ") as caught:
        smallest_certified(front(study))
    versus = front(study)[0].against_dense
    assert f"within {100 * versus.upper:.2f} pp" in str(caught.value)
    assert "--max-drop 1pp" in str(caught.value)
    with pytest.raises(StudyError, match="none was tested"):
        smallest_certified(front(study_of(FRONT, frozen=False)))


def test_a_certified_baseline_is_named_where_no_model_is():
    study = study_of(FRONT)
    cast = record_of("none", size(16), DENSE_ACCURACY, adapter="none", lr=0.5)
    sized = (cast.outcome.sha256, cast.outcome.size.file_bytes)
    check = Verification(cast.trial_id, *sized, {"accuracy": 0.9}, {"dense": Paired(5000, 0, 0)})
    for event in (*ended(-2, "fp16", cast), Verified(check)):
        study.state.apply(event)
    with pytest.raises(StudyError, match=f"baseline fp16, .*{artifact(cast.trial_id)}"):
        smallest_certified(front(study))


def test_what_breaks_a_constraint_is_on_no_front_that_is_still_open():
    study = study_of(FRONT, frozen=False)
    held = replace(study, info={**study.info, "constraints": ["accuracy <= 95%"]})
    assert max(p.value for p in front(study)) == 0.96
    assert max(p.value for p in front(held)) == 0.94
    assert len(front(held)) == len(front(study)) - 1


def test_a_frozen_front_is_taken_as_it_was_decided():
    study = study_of([*FRONT, (16.0, 0.5)])
    assert len(front(study)) == 5  # also what validation alone would leave out


def test_the_knee_is_that_of_the_front():
    points = front(study_of(FRONT))
    at = knee([(-p.value, -math.log2(p.ratio)) for p in points])
    assert choose(points, [], True) == points[at]


def test_the_lines_that_load_a_file_begin_with_the_plugins(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("loaded = 'by the card'\n")
    study = study_of(FRONT)
    point = replace(front(study)[0], study=replace(study, info={
        **study.info, "config": {"plugins": ["mine.py"]}}))  # fmt: skip
    first, *rest = loading(point, "model.safetensors")
    assert rest == loading(front(study)[0], "model.safetensors")
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    exec(first, {})
    (name,) = (n for n in set(sys.modules) - before if n.startswith("paretune_plugin_"))
    assert sys.modules[name].loaded


def test_a_drop_is_held_against_dense_on_validation():
    study = study_of(FRONT)
    points = front(study)
    assert [p.drop for p in points] == pytest.approx([DENSE_ACCURACY - a for _, a in FRONT])
    chosen = choose(points, asked(study, max_drop="1pp"), False)
    assert chosen.value == 0.94
    assert choose(points, asked(study, max_drop="0.5pp"), False).value == 0.96


def test_a_mean_over_seeds_decides_where_there_is_one():
    study = study_of(FRONT)
    first, *rest = study.state.frozen.members
    lower = replace(first, mean=0.93, low=0.92, high=0.94, probability=0.8)
    study.state.apply(Frozen(4.0, (lower, *rest)))
    points = front(study)
    assert points[0].value == 0.93
    assert choose(points, asked(study, min_accuracy="95%"), False) is None


def test_nothing_that_keeps_the_bounds_names_what_comes_nearest():
    study = study_of(FRONT)
    wanted = asked(study, min_accuracy="97%", max_bytes="20kB")
    assert choose(front(study), wanted, False) is None
    said = nearest(front(study), wanted)
    assert "accuracy on validation is 96.00%, asked: 97.00%" in said
    assert "size" not in said


def test_latency_that_was_not_measured_is_said_so_and_what_was_counts():
    study = study_of(FRONT)
    wanted = asked(study, max_latency="3ms")
    assert choose(front(study), wanted, False) is None
    assert nearest(front(study), wanted) == "latency: not measured in this study"
    timed = study_of(FRONT, latency=2.5)
    assert choose(front(timed), wanted, False).value == 0.96
    assert choose(front(timed), asked(timed, max_latency="2000us"), False) is None
    said = as_json(choose(front(timed), wanted, False))
    assert said["verified_latency_ms"] == 2.5
    assert said["latency_ms"] is None  # which is by the study's table


@pytest.mark.parametrize(
    ("amounts", "texts"),
    [
        ({"max_bytes": "5 parsecs"}, ["--max-bytes: expected bytes"]),
        ({"min_accuracy": "95pp"}, ["--min-accuracy: expected"]),
        ({"max_metric": "3"}, ["--max-metric: of accuracy more is better; use --min-metric"]),
        ({"max_latency": "fast", "max_drop": "much"}, ["--max-latency: expected", "--max-drop"]),
        ({"max_latency": "3"}, ["--max-latency: expected a time"]),
    ],
)
def test_malformed_amounts_are_all_named(amounts, texts):
    with pytest.raises(InvalidSetting) as caught:
        bounds(study_of(FRONT), amounts)
    assert len(caught.value.errors) == len(texts)
    for text, error in zip(texts, caught.value.errors, strict=True):
        assert error.startswith(text)


def test_a_metric_to_be_made_small_is_bounded_from_above():
    study = study_of(FRONT)
    name = {"name": "val_accuracy", "direction": "minimize", "unit": "nats"}
    turned = replace(study, info={"objectives": [name]})
    points = front(turned)
    assert choose(points, asked(turned, max_metric="0.92"), False).value == 0.60
    assert choose(points, asked(turned, max_metric="0.1"), False) is None
    with pytest.raises(InvalidSetting, match="use --max-metric"):
        asked(turned, min_metric="0.5")
    assert asked(turned, max_drop="5%")[0].most == 0.05


@pytest.fixture
def folder(tmp_path):
    """A study's folder with the files of its front."""
    events = events_of(FRONT)
    storage = Storage.open(tmp_path / "made")
    storage.write_bytes(log.FILE, b"".join(map(log.to_line, events)))
    storage.write_text(FILE, json.dumps({"objectives": [FRACTION, DOUBLINGS]}))
    for member in StudyState(events).frozen.members:
        storage.write_bytes(artifact(member.trial_id), b"not the one")
    return tmp_path


def command(folder, *options):
    return CliRunner().invoke(main, [*options, "--storage", str(folder)])


def test_the_command_prints_the_front_and_the_point_with_how_to_repeat_it(folder):
    table = command(folder, "made")
    assert table.exit_code == 0
    said, _, *lines = table.stdout.splitlines()
    assert said == "val, test: accuracy"
    assert len(lines) == len(FRONT)
    one = command(folder, "made", "--min-accuracy", "93%")
    assert one.exit_code == 0, one.stderr
    for text in ("94.00%", "90.00%", "5.00 pp", "not measured", "python -m study.replay"):
        assert text in one.stdout
    data = json.loads(command(folder, "made", "--min-accuracy", "93%", "--json").stdout)
    assert data["val_accuracy"] == 0.94
    assert data["replay"] in one.stdout


def test_exit_codes_tell_nothing_found_from_wrong_input(folder):
    assert command(folder, "made", "--min-accuracy", "99%").exit_code == 1
    assert command(folder, "made", "--certified").exit_code == 1
    for options in (["nix"], ["made", "--max-bytes", "x"], ["made", "--export", "there"],
                    ["made", "--knee", "--max-bytes", "5kB"], ["made", "--certified", "--knee"],
                    ["made", "--certified", "--max-drop", "1pp"]):  # fmt: skip
        done = command(folder, *options)
        assert done.exit_code == 2, (options, done.stderr)
        assert done.stderr.strip()


def test_a_file_that_is_not_the_one_measured_is_not_exported(folder, tmp_path):
    done = command(folder, "made", "--knee", "--export", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "not the file that was measured" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_study_is_found_as_a_folder_too(folder):
    assert read(Storage.open(folder / "made")).objective.name == "accuracy"
    assert command("elsewhere", str(folder / "made"), "--knee").exit_code == 0

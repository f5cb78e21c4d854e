"""The state of a study is the sum of its events."""

import pytest
from log_helpers import begin, curve, end, every_kind, make_record, opened, trial_id, whole

from study.events import Answered, Closed, Reported, Started, Suggested, decode, encode
from study.state import Phase, StateError, StudyState
from trainables.record import RecordError, Report, Status


@pytest.mark.parametrize("event", every_kind(), ids=lambda e: type(e).__name__)
def test_events_survive_json(event):
    assert decode(encode(event)) == event
    assert "\n" not in encode(event)


@pytest.mark.parametrize(
    "text", ['{"kind":"later"}', "{}", "[1]", '{"kind":"closed","at":1.0}', '{"kind":"answered"}']
)
def test_what_is_no_event_is_refused(text):
    with pytest.raises(RecordError):
        decode(text)


def test_role_and_number_agree():
    trial = make_record().trial
    with pytest.raises(RecordError, match="role 'dense'"):
        Suggested(0, "dense", {}, trial, "id")


def test_every_kind():
    state = StudyState(every_kind())
    assert state.counts() == {
        "waiting": 0, "running": 0, "answered": 1, "inherited": 0, "completed": 1,
        "stopped": 0, "failed": 0, "out_of_memory": 0,
        "ran": 1, "done": 2,
    }  # fmt: skip
    assert state.records == [make_record(0)]
    assert state.trials[1].record == state.record_of(trial_id(0)) == make_record(0)
    assert list(state.verifications) == [trial_id(0)]
    assert state.spent_seconds == 30.0
    assert state.interrupted() == []


@pytest.mark.parametrize("status", list(Status))
def test_end_states(status):
    state = StudyState([opened(), *begin(), *end(status=status)])
    assert state.trials[0].phase == status.value
    assert state.counts()[status.value] == state.counts()["done"] == 1


def test_a_killed_session_is_interrupted_and_begins_again():
    state = StudyState([opened(90.0), *begin(0, 100.0), *curve(0, 3)])
    assert state.trials[0].phase is Phase.RUNNING
    assert [t.number for t in state.interrupted()] == [0]
    state.apply(opened(500.0, resumed=True))
    assert state.trials[0].phase is Phase.WAITING
    assert state.spent_seconds == pytest.approx(10.0)
    state.apply(Started(0, trial_id(0), 510.0))
    assert state.trials[0].starts == 2
    assert state.trials[0].reported == 2  # until it says how far it is
    again = curve(0)
    state.apply(again[0])
    assert state.trials[0].reports == [again[0].report]
    for event in [*again[1:], *end(0, 520.0)]:
        state.apply(event)
    assert state.records == [make_record(0)]
    assert state.spent_seconds == pytest.approx(30.0)
    state.apply(Closed(525.0, "done", 25.0))
    assert state.spent_seconds == pytest.approx(35.0)


def test_records_come_in_order_of_numbers():
    state = StudyState([opened(), *whole(2), *whole(0), *begin(-1, role="dense")])
    assert [t.number for t in state.ended] == [0, 2]
    assert state.baseline("dense").number == -1
    assert state.baseline("int8") is None
    assert state.counts("dense")["running"] == 1


def test_study_id_is_that_of_the_first_opening():
    first = StudyState([opened(1.0)])
    assert first.study_id == StudyState([opened(1.0), opened(2.0)]).study_id
    assert first.study_id != StudyState([opened(2.0)]).study_id


@pytest.mark.parametrize(
    "events",
    [
        [begin()[1]],
        [*begin(), *begin()],
        [*whole(), *end()],
        [*whole(), *curve()],
        [begin()[0], Started(0, "another", 1.0)],
        [begin()[0], Answered(0, trial_id(0))],
        [Reported(0, trial_id(0), Report(0, {}))],
    ],
)
def test_contradictions_are_refused(events):
    with pytest.raises(StateError):
        StudyState([opened(), *events])

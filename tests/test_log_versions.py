"""Logs of earlier versions are read, and studies that they left unfinished go on."""

import gzip
import json
from pathlib import Path

import pytest
from fake_runner import FakeRunner
from log_helpers import every_kind

from study import events, log, upgrades
from study.config import parse_config
from study.events import Opened, decode, encode
from study.loop.search import StudySearch
from study.state import OPEN, StudyState
from trainables.record import canonical
from trainables.serial import RecordError

# Named by the commit that wrote them: `python -m study.run --trials 3`; 4d768bb crashed on the way.
LOGS = sorted((Path(__file__).parent / "logs").glob("*.jsonl.gz"))


def read(path):
    """The events of an old log."""
    data = gzip.decompress(path.read_bytes())
    found, length = log.parse(data, path.name)
    assert length == len(data)
    return found


def test_there_are_old_logs():
    assert len(LOGS) >= 3


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name[:7])
def test_an_old_log_is_read(path):
    found = read(path)
    state = StudyState(found)
    assert isinstance(found[0], Opened)
    assert len(state.records) >= 3
    for record in state.records:
        assert canonical(record)
    for event in found:
        assert decode(encode(event)) == event


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name[:7])
def test_an_old_study_goes_on_wherever_it_was_killed(path, monkeypatch):
    """Trials that ended stay as they were, those under way are run again.

    The searcher is left out: a space has other parameters today, and is then not searched on.
    """
    monkeypatch.setattr(StudySearch, "put", lambda self, event: None)
    monkeypatch.setattr(StudySearch, "ask", lambda self, number: None)
    found = read(path)
    config = parse_config("task: digits\nepochs: 24\n")
    for length in range(1, len(found), 7):
        before = StudyState(found[:length])
        left = [t.number for t in before.trials.values() if t.phase in OPEN]
        after = FakeRunner(config, found[:length]).run().state
        for trial in before.finished:
            assert after.trials[trial.number].record == trial.record
        assert all(after.trials[number].record for number in left)
        assert not after.interrupted()


def test_what_is_written_today_is_read_today():
    for event in every_kind():
        assert decode(encode(event)) == event


def renamed(data):
    """A step: version 1 said ``when``."""
    if data["kind"] != "closed":
        return data
    return {("at" if key == "when" else key): value for key, value in data.items()}


def test_steps_are_taken_from_an_event_s_own_version(monkeypatch):
    closed = every_kind()[-1]
    today = json.loads(encode(closed))
    old = {("when" if key == "at" else key): value for key, value in today.items()}
    monkeypatch.setattr(upgrades, "STEPS", (renamed, lambda data: data | {"reason": "both"}))
    assert decode(json.dumps(old)).at == closed.at
    assert decode(json.dumps(old)).reason == "both"
    assert decode(json.dumps(today | {"v": 2})).reason == "both"
    assert decode(json.dumps(today | {"v": 3})) == closed
    assert json.loads(encode(closed))["v"] == 3
    assert decode(encode(closed)) == closed


@pytest.mark.parametrize("version", [upgrades.version() + 1, 10**30])
def test_a_later_version_is_refused(version):
    data = json.loads(encode(every_kind()[0])) | {"v": version}
    with pytest.raises(RecordError, match="upgrade Paretune"):
        decode(json.dumps(data))


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.0, True])
def test_what_is_no_version_is_refused(version):
    data = json.loads(encode(every_kind()[0])) | {"v": version}
    with pytest.raises(RecordError, match="is no version"):
        decode(json.dumps(data))


def test_a_field_of_a_later_version_says_what_to_do():
    data = json.loads(encode(every_kind()[0])) | {"weather": "fine"}
    with pytest.raises(RecordError, match="unknown field weather.*upgrade Paretune"):
        decode(json.dumps(data))


def test_no_event_has_a_field_named_like_the_version():
    for kind in events.KINDS.values():
        assert upgrades.KEY not in kind.__dataclass_fields__

"""A study's folder that somebody else made: nothing in it leads out of it, nothing in it runs."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_study as synthetic
import torch
from click.testing import CliRunner
from fuzz_targets import TARGETS_BY_NAME, infos
from log_helpers import every_kind, make_record, opened, whole

from analysis import pareto
from compression.registry import InvalidSetting
from study import best, log
from study.checks import name_problem
from study.events import Inherited
from study.finished import find, find_trial
from study.log import EventLog
from study.plugins import sent_along
from study.store.files import artifact, probe
from study.store.names import UnsafeName, is_within
from study.store.storage import Storage, StorageError
from trainables.models.vision import read_state

OUTSIDE = [
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "x" * 300,
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("path_of", [artifact, probe])
def test_a_trial_id_is_one_part_of_a_path(name, path_of):
    with pytest.raises(UnsafeName):
        path_of(name)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "..\\x", "a\0b"])
def test_no_name_leads_out_of_a_storage(name, tmp_path):
    inner = Storage.open(tmp_path / "inner")
    (tmp_path / "x").write_text("theirs")
    tries = [inner.exists, inner.size, inner.list, inner.read_bytes, inner.sub, inner.delete]
    for one in tries:
        with pytest.raises(StorageError, match="no name within"):
            one(name)
    with pytest.raises(StorageError, match="no name within"):
        inner.write_bytes(name, b"mine")
    assert (tmp_path / "x").read_text() == "theirs"
    assert not is_within(name)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".hidden", "-x"])
def test_a_study_is_not_named_by_a_path(name, tmp_path):
    assert name_problem(str(tmp_path), name, False)


LINKS = ["log.jsonl", "lease.json", "study.json", "artifacts", "report", "records/records.parquet"]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_links(name, there, tmp_path):
    target, folder = tmp_path / "target", tmp_path / "study"
    if there:
        target.write_text("theirs")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(target)
    with pytest.raises(UnsafeName, match="is a link to"):
        EventLog(Storage.open(folder))
    assert target.exists() == there
    assert not there or target.read_text() == "theirs"


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "study").symlink_to(tmp_path / "disk")
    with EventLog(Storage.open(tmp_path / "study")) as written:
        written.append(opened())
    assert log.read(Storage.open(tmp_path / "disk")) == [opened()]


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "a\\b", "..", "", "a\nb"])
def test_a_name_in_study_json_leads_out_of_no_folder(name, tmp_path):
    made = synthetic.study()
    sent = synthetic.write(tmp_path / "sent", replace(made, info={**made.info, "name": name}))
    other = synthetic.write(tmp_path / "other", made)
    before = sorted(tmp_path.rglob("*"))
    paths = [str(sent), str(other), "--output", str(tmp_path / "a/b/out"), "--format", "md"]
    done = CliRunner().invoke(pareto.main, paths)
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    assert "study.json: name: expected one part of a path" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["summary.md", "summary.md.part", "summary.md.before", ".report.json", "charts", ""]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_report_is_not_written_through_links(name, there, tmp_path):
    target, sent = tmp_path / "target", synthetic.write(tmp_path / "sent", synthetic.study())
    if there:
        target.write_text("theirs")
    link = sent / "report" / name if name else sent / "report"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    done = CliRunner().invoke(pareto.main, [str(sent), "--format", "md,csv"])
    assert done.exit_code == 2, done.output
    assert "is a link" in done.output
    assert target.exists() == there
    assert not there or target.read_text() == "theirs"
    assert link.is_symlink()


def study(folder: Path, events=None, info=None) -> Path:
    """A study's folder as a user could be sent it."""
    (folder / "artifacts").mkdir(parents=True)
    (folder / "log.jsonl").write_bytes(b"".join(map(log.to_line, events or every_kind())))
    (folder / "study.json").write_bytes(json.dumps(info).encode() if info else infos()[0])
    return folder


def test_where_a_trial_came_from_is_not_opened_by_a_path(tmp_path):
    """A path or an address in a log would have this machine read there, with its user's keys."""
    record = make_record(3)
    elsewhere = study(tmp_path / "elsewhere", [opened(), *whole(3)])
    taken = Inherited(0, {"rank": 4}, record.trial_id, record, str(elsewhere))
    study(tmp_path / "results" / "sent", [opened(), taken])
    found = find_trial(record.trial_id, "sent", str(tmp_path / "results"))
    assert found.study.name == "sent"
    assert "which is not here" in found.remarks[0]


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "sent/evil.py", ".."])
def test_a_study_does_not_say_where_plugin_files_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSetting, match="expected a name without folders"):
        sent_along({"config": {"plugins": [name]}})


def test_a_very_long_name_of_a_plugin_file_is_cut():
    with pytest.raises(InvalidSetting, match="expected a name without folders") as refused:
        sent_along({"config": {"plugins": ["://a:" * 20_000]}})
    assert len(refused.value.errors[0]) < 500


def test_plugin_files_are_the_users_own(tmp_path, monkeypatch):
    sent, own = tmp_path / "sent", tmp_path / "own"
    for folder, text in ((sent, "evil"), (own, "good")):
        folder.mkdir()
        (folder / "mine.py").write_text(f"# {text}")
    monkeypatch.chdir(own)
    (file,) = sent_along({"config": {"plugins": ["mine.py"]}})
    assert file.source == "# good"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSetting, match="run this in the folder that holds it"):
        sent_along({"config": {"plugins": ["mine.py"]}})


class Bomb:
    """What a pickle must not be able to do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", TARGETS_BY_NAME)
def test_a_pickle_in_the_place_of_a_file_does_not_run(name, protocol, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"), protocol)
    if name == "log":
        assert TARGETS_BY_NAME[name].survives(bomb)  # a torn tail: nothing of it is read
    else:
        assert not TARGETS_BY_NAME[name].survives(bomb)
    assert not (tmp_path / "ran").exists()
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists(), "the bomb is a dud: nothing was tested"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_a_pickle_among_weights_does_not_run(suffix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    torch.save({"a": Bomb(tmp_path / "ran")}, file)
    with pytest.raises(InvalidSetting, match="can't be read"):
        read_state(file)
    assert not (tmp_path / "ran").exists()


def test_an_alias_bomb_is_refused_at_once():
    from study.config import parse_config

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(InvalidSetting, match="more than 100,000 keys and items"):
        parse_config("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.mkdir [{}]", "!!python/name:os.system ''", "!!python/module:os ''"],
)
def test_no_tag_of_a_config_runs_anything(text, tmp_path):
    from study.config import parse_config

    with pytest.raises(InvalidSetting, match="malformed YAML"):
        parse_config(f"task: {text.format(tmp_path / 'ran')}")
    assert not (tmp_path / "ran").exists()


def test_what_a_command_prints_of_a_study_obeys_nobody(tmp_path):
    events = every_kind()
    at = next(i for i, e in enumerate(events) if type(e).__name__ == "Ended")
    record = events[at].record
    rule = record.trial.layers[0]
    name = replace(rule.methods[0], name="\x1b]0;owned\x07\x1b[2J")
    trial = replace(record.trial, layers=(replace(rule, methods=(name,)),))
    events[at] = replace(events[at], record=replace(record, trial=trial))
    study(tmp_path / "results" / "sent", events)
    done = CliRunner().invoke(best.main, ["sent", "--storage", str(tmp_path / "results")])
    assert done.exit_code == 0, done.output
    assert "owned" in done.output
    assert "\x1b" not in done.output
    assert "\x07" not in done.output
    assert find("sent", str(tmp_path / "results"))

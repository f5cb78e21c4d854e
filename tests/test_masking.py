"""Secrets in addresses are not shown or stored, and text from files obeys nobody."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.answering import fail
from analysis.masking import cell, masked, printable
from study.config import parse_config
from study.store.storage import Storage, StorageError
from study.tracking.address import TrackingError, page_address, ui_command

CANARY = "c4n4ry"
ADDRESSES = [
    f"postgresql://user:{CANARY}@host/db",
    f"postgresql+psycopg2://user:{CANARY}/x@host:5432/db",
    f"postgresql://user:{CANARY}@{CANARY}@host/db",
    f"https://{CANARY}@host/path",
    f"s3://{CANARY}:{CANARY}@bucket/path?region=eu-west-1",
    f"s3://bucket/path?access_key={CANARY}&secret_key={CANARY}&scheme=http",
    f"postgresql://host/db?password={CANARY}&sslmode=require",
    f"mysql://host/db?user=me;password={CANARY}",
    f"abfs://container/path?sas_token={CANARY}%3D%3D",
    f"s3://bucket/p?endpoint_override=http://me:{CANARY}@localhost:9000",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("text", ["{}", "cannot open '{}': refused", "({}) and {}"])
def test_no_secret_of_an_address_is_shown(address, text):
    shown = masked(text.format(address, address))
    assert CANARY not in shown
    assert "***" in shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "results",
        "/a/b?c=d",
        "me@host: a=b",
        "sqlite:////tmp/mlflow.db",
        "http://127.0.0.1:5000",
        "s3://bucket/path?region=eu-west-1&scheme=http",
        "s3://bucket/who@where/x",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


@given(st.text())
def test_a_terminal_gets_no_control_characters(text):
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert printable(shown) == shown
    if all(c.isprintable() for c in text):
        assert shown == text


def test_escape_sequences_are_written_out():
    assert printable("a\x1b[2Jb\rc\x9b\u202e") == r"a\x1b[2Jb\rc\x9b\u202e"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@x", "\t=1", "=HYPERLINK(0)"])
def test_a_spreadsheet_computes_nothing(text):
    assert cell(text) == f"'{text}"
    assert cell(-2.5) == -2.5
    assert cell("rtn") == "rtn"


def test_errors_of_commands_are_masked_and_printable(capsys):
    with pytest.raises(SystemExit):
        fail(2, [f"x\x1b[2J {ADDRESSES[0]}"])
    said = capsys.readouterr().err
    assert CANARY not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_a_study_stores_of_its_config_has_no_secret(address, tmp_path):
    config = parse_config(f"task: digits\ntracking_uri: {json.dumps(address)}")
    assert CANARY not in json.dumps(config.to_json())
    assert config.tracking_uri == address


def test_a_storage_and_its_errors_are_shown_without_secrets():
    storage = Storage.open(f"s3://key:{CANARY}@bucket/p?region=eu-west-1")
    assert CANARY not in str(storage)
    assert CANARY not in str(storage.sub("study"))
    with pytest.raises(StorageError) as caught:
        Storage.open(f"nowhere://key:{CANARY}@bucket/p")
    assert CANARY not in str(caught.value)


def test_the_password_of_an_optuna_storage_may_stand_in_its_query(monkeypatch):
    monkeypatch.setattr("study.config.check_optuna_storage", lambda place: place)
    address = f"sqlite:///x.db?password={CANARY}&mode=rw"
    shown = parse_config(f"task: digits\noptuna_storage: {address}").to_json()["optuna_storage"]
    assert shown == "sqlite:///x.db?password=***&mode=rw"


@pytest.mark.parametrize("address", [*ADDRESSES[:4], f"file://u:{CANARY}@x"])
def test_the_tracking_store_is_shown_without_secrets(address):
    assert CANARY not in ui_command(address) + page_address(address, "#/experiments")
    with pytest.raises(TrackingError) as caught:
        raise TrackingError(f"tracking '{address}': no answer")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("part", ["://a:", "://", "://a", "a:", "?a", "&a=", "://a:b@", "?", "@"])
def test_a_long_text_is_masked_in_no_time(part):
    text = part * (200_000 // len(part))
    began = time.perf_counter()
    shown = masked(f"{text} {ADDRESSES[0]} {text}")
    assert time.perf_counter() - began < 1.0
    assert CANARY not in shown


def test_a_secret_behind_much_else_and_a_long_one_are_hidden():
    assert CANARY not in masked("://a:" * 40_000 + f"{CANARY}@host")
    assert masked(f"s3://key:{CANARY * 1000}@bucket/p") == "s3://***@bucket/p"


def test_a_very_long_error_is_cut(capsys):
    with pytest.raises(SystemExit):
        fail(2, ["x" * 10**6, f"s3://key:{CANARY * 1000}@bucket " + "y" * 10**6])
    first, second = capsys.readouterr().err.splitlines()
    assert len(first) < 5000
    assert first.endswith("xxx...")
    assert second.startswith("s3://***@bucket yyy")

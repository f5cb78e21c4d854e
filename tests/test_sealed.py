"""Small JSON files: what is damaged is told, bit by bit."""

import json

import pytest

from study.errors import StudyError
from study.store import reads, sealed
from study.store.storage import Storage

CONTENT = {"rows": [{"form": "rtn", "ms": 1.25}, {"form": "svd", "ms": 3}], "at": ("a", None)}
AS_READ = {**CONTENT, "at": ["a", None]}


def test_what_is_read_is_what_was_written(tmp_path):
    storage = Storage.open(tmp_path)
    assert sealed.read(storage, "x.json", "") is None
    sealed.write(storage, "x.json", CONTENT)
    assert sealed.read(storage, "x.json", "") == AS_READ


def test_no_bit_changes_unseen(tmp_path):
    storage = Storage.open(tmp_path)
    sealed.write(storage, "x.json", CONTENT)
    good = storage.read_bytes("x.json")
    refused = []
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        storage.write_bytes("x.json", bytes(data))
        try:  # of layout, or of the checksum's own name, if at all
            assert AS_READ.items() <= sealed.read(storage, "x.json", "do this").items()
        except StudyError as error:
            refused.append(str(error))
    assert len(refused) > 6 * len(good)
    assert all("x.json" in text and text.endswith("do this") for text in refused)


def test_files_of_before_there_were_checksums_are_read(tmp_path):
    storage = Storage.open(tmp_path)
    storage.write_text("x.json", json.dumps(CONTENT))
    assert sealed.read(storage, "x.json", "") == AS_READ


def test_a_damaged_entry_of_the_ledger_is_named(tmp_path):
    storage = Storage.open(tmp_path)
    reads.add(storage, "data", "s", 3, "2026")
    (name,) = storage.sub(reads.FOLDER).list("data")
    storage.sub(reads.FOLDER).sub("data").write_text(name, "{")
    with pytest.raises(StudyError, match=name):
        reads.reads(storage, "data")

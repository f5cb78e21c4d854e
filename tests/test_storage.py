"""Storage: the same few verbs on every filesystem, and errors that name the file."""

import os
import time
import uuid

import pytest
from object_store import Store
from pyarrow import fs

from study.store import patience
from study.store.patience import Patience
from study.store.storage import Storage, StorageError


@pytest.fixture(params=["local", "file-uri", "fsspec+memory", "sub-tree"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage.open(tmp_path / "made" / "later")
    if request.param == "file-uri":
        return Storage.open(f"file://{tmp_path}/made/later")
    if request.param == "sub-tree":
        return Storage(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "made")
    return Storage.open(f"fsspec+memory://{uuid.uuid4().hex}/made")


def test_written_is_read(storage):
    assert not storage.exists("a/b.txt")
    storage.write_bytes("a/b.txt", b"\x00one")
    storage.write_text("a/b.txt", "twö")
    assert storage.read_text("a/b.txt") == "twö"
    assert storage.read_bytes("a/b.txt", 2) == "ö".encode()
    assert storage.size("a/b.txt") == 4
    assert storage.list() == ["a"]
    assert storage.list("a") == storage.sub("a").list() == ["b.txt"]
    assert storage.list("nowhere") == []
    storage.delete("a/b.txt")
    storage.delete("a/b.txt")
    assert not storage.exists("a/b.txt")


def test_check_writable_leaves_nothing(storage):
    storage.check_writable()
    assert storage.list() == []


def test_delete_takes_a_folder(storage):
    storage.write_text("a/b/c", "x")
    storage.delete("a")
    assert not storage.exists("a/b/c")


def test_reading_what_is_not_there_names_it(storage):
    with pytest.raises(StorageError, match=r"cannot read .*gone\.txt"):
        storage.read_bytes("gone.txt")
    with pytest.raises(StorageError, match=r"cannot look at .*gone\.txt"):
        storage.size("gone.txt")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    storage = Storage.open(tmp_path)
    storage.write_text("a", "old")

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*a: No space left"):
        storage.write_text("a", "new")
    assert storage.read_text("a") == "old"
    assert storage.list() == ["a"]


def test_not_writable_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write .*Not a directory"):
        Storage.open(tmp_path / "file" / "under").check_writable()


def test_unknown_scheme():
    with pytest.raises(StorageError, match="nope://x"):
        Storage.open("nope://x")


def test_uri_opens_the_same_folder(tmp_path):
    storage = Storage.open(tmp_path).sub("study")
    storage.write_text("x", "1")
    assert Storage.open(storage.uri).read_text("x") == "1"
    memory = Storage.open("fsspec+memory://some/place").sub("study")
    assert memory.uri == "fsspec+memory://some/place/study"


def test_query_of_a_uri_is_kept_and_not_shown():
    uri = "s3://key:secret@bucket/p?endpoint_override=localhost:1&scheme=http"
    storage = Storage.open(uri).sub("s")
    assert storage.uri.endswith("/p/s?endpoint_override=localhost:1&scheme=http")
    assert storage.root == "bucket/p/s"
    assert "secret" not in str(storage)


READS = {
    "exists": lambda storage: storage.exists("a"),
    "size": lambda storage: storage.size("a"),
    "list": lambda storage: storage.list(),
    "sizes": lambda storage: storage.sizes(),
    "read_bytes": lambda storage: storage.read_bytes("a"),
}


@pytest.mark.parametrize("verb", READS)
def test_a_read_that_is_refused_is_tried_again(verb, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    store, left, said = Store({"bucket/study/a": b"old"}), [1, 2, 3], []
    healthy = READS[verb](store.storage())

    def refuse(path):
        if left:
            left.pop()
            raise OSError("503 slow down")

    store.refuse_reads = refuse
    with pytest.raises(StorageError, match="503"):
        READS[verb](store.storage())
    assert READS[verb](store.storage().patient(Patience(60.0, said.append))) == healthy
    assert not left
    assert "503 slow down; trying again" in said[0]


def test_what_is_not_there_or_leads_out_of_the_folder_is_not_waited_for(storage):
    storage.write_text("folder/a", "x")
    patient, said = storage.patient(Patience(60.0, lambda text: said.append(text))), []
    began = time.monotonic()
    for wrong in (
        lambda: patient.read_bytes("gone"),
        lambda: patient.read_bytes("folder"),
        lambda: patient.size("gone"),
        lambda: patient.exists("../a"),
        lambda: patient.list("../a"),
        lambda: patient.read_bytes("../a"),
        lambda: patient.write_bytes("../a", b""),
        lambda: patient.delete("../a"),
    ):
        with pytest.raises(StorageError) as refused:
            wrong()
        assert not refused.value.passing
    assert not patient.exists("gone")
    assert patient.list("gone") == []
    assert time.monotonic() - began < 5.0
    assert said == []

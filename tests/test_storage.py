"""Storage: the same few verbs on every filesystem, and errors that name the file."""

import os
import uuid

import pytest
from pyarrow import fs

from study.storage import Storage, StorageError


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

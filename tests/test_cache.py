"""The cache: made once, rebuilt when damaged, never in the way."""

import os

import pytest

from trainables import cache


class Maker:
    def __init__(self, data=b"result"):
        self.data, self.calls = data, 0

    def __call__(self):
        self.calls += 1
        return self.data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def test_a_result_is_made_once(folder):
    make = Maker()
    assert [cache.cached("key", make) for _ in range(3)] == [b"result"] * 3
    assert make.calls == 1


def test_keys_are_kept_apart(folder):
    assert cache.cached("one", Maker(b"1")) == b"1"
    assert cache.cached("two", Maker(b"2")) == b"2"
    assert cache.cached("../../one", Maker(b"3")) == b"3"
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "append", "short"])
def test_a_damaged_entry_is_made_again(folder, damage):
    cache.cached("key", Maker())
    (entry,) = folder.iterdir()
    data = entry.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    harm = {"flip": flipped, "cut": data[:-1], "empty": b"", "append": data + b"x", "short": b"ab"}
    entry.write_bytes(harm[damage])
    make = Maker()
    assert cache.cached("key", make) == b"result"
    assert make.calls == 1
    assert entry.read_bytes() == data


def test_an_empty_result_is_a_result(folder):
    make = Maker(b"")
    assert cache.cached("key", make) == cache.cached("key", make) == b""
    assert make.calls == 1


def test_no_half_written_file_stays(folder):
    cache.cached("key", Maker())
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_made_costs_the_result_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "file" / "cache"))
    make = Maker()
    assert [cache.cached("key", make) for _ in range(2)] == [b"result"] * 2
    assert make.calls == 2


def test_a_write_that_fails_leaves_nothing_behind(folder, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert cache.cached("key", Maker()) == b"result"
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_the_result_nothing(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    assert cache.cached("key", Maker()) == b"result"


def test_an_error_of_the_maker_is_raised_and_nothing_is_kept(folder):
    def broken():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.cached("key", broken)
    assert cache.cached("key", Maker()) == b"result"


def test_the_folder_is_the_user_s_unless_chosen(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("PARETUNE_CACHE")
    assert str(cache.folder()) == "/x/paretune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache.folder()) == "/home/someone/.cache/paretune"

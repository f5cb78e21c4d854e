"""The store: what goes in comes out, what is damaged is made anew, the budget holds."""

import errno
import hashlib
import logging
import multiprocessing
import os
import shutil
import time
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.frozen import feature_files
from trainables.frozen.feature_files import Column, FeatureCacheError, Ragged, Writer
from trainables.frozen.feature_reader import Reader
from trainables.frozen.feature_store import Store

DTYPES = sorted(feature_files.STORABLE, key=str)
COLUMNS = {"a": Column(torch.float32, (3,))}


def values(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator)


def filling(tensor, batch=4):
    def fill(writer):
        for rows in torch.arange(len(tensor)).split(batch):
            writer.add(rows, {"a": tensor[rows]})

    return fill


def made(store, key="k", count=10, **kwargs):
    tensor = values(count)
    return store.get(key, COLUMNS, tensor.nbytes, filling(tensor), **kwargs)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", budget=1 << 30)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4)])
def test_every_bit_comes_back(tmp_path, dtype, shape):
    n = 11
    raw = torch.randint(0, 2, (n, *shape, dtype.itemsize), dtype=torch.uint8)
    raw = raw if dtype == torch.bool else raw * 113
    tensor = raw.reshape(-1).view(dtype).view(n, *shape)
    writer = Writer(tmp_path, {"x": Column(dtype, shape)}, 1 << 20)
    for rows in torch.randperm(n).split(4):
        writer.add(rows, {"x": tensor[rows]})
    writer.close({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Reader(tmp_path).fetch(torch.arange(n))["x"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert torch.equal(bits(found), bits(tensor))


@given(data=st.data())
def test_ragged_rows_come_back_in_any_order(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ragged")
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20)))
    ends, n = lengths.cumsum(0), len(lengths)
    steps = torch.arange(int(lengths.sum()) * 2, dtype=torch.float32).view(-1, 2)
    row = [steps[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    writer = Writer(folder, {"x": Column(torch.float32, (2,), True)}, 1 << 20, shard_bytes=50)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    for rows in order.split(3):
        writer.add(rows, {"x": Ragged((torch.cat([row[i] for i in rows]), lengths[rows]))})
    writer.close({})
    wanted = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30)))
    found, found_lengths = Reader(folder).fetch(wanted)["x"]
    assert torch.equal(found_lengths, lengths[wanted])
    assert torch.equal(found, torch.cat([row[i] for i in wanted]))


@given(rows=st.lists(st.integers(0, 99), min_size=1, max_size=40), shard=st.integers(20, 2000))
def test_rows_are_gathered_over_shards(tmp_path_factory, rows, shard):
    folder, tensor = tmp_path_factory.mktemp("shards"), values(100)
    writer = Writer(folder, COLUMNS, 1 << 20, shard_bytes=shard)
    filling(tensor, batch=7)(writer)
    writer.close({})
    reader, wanted = Reader(folder), torch.tensor(rows)
    assert torch.equal(reader.fetch(wanted)["a"], tensor[wanted])
    assert all(s["bytes"] >= 7 for s in feature_files.read_manifest(folder).shards)


def test_what_is_fetched_may_be_written_to(store):
    reader = made(store)
    reader.fetch(torch.arange(4))["a"].fill_(0.0)
    assert torch.equal(reader.fetch(torch.arange(10))["a"], values(10))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_damage_is_found_said_and_mended(store, damage, caplog):
    made(store)
    path = store.folder / "k" / ("manifest.json" if damage == "manifest" else "part-00000.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    reader = made(store)
    assert "damaged and made anew" in caplog.text
    assert torch.equal(reader.fetch(torch.arange(10))["a"], values(10))


def test_it_is_verified_once_a_process(store, monkeypatch):
    first = made(store)
    assert made(store) is first
    del first
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert made(store).rows == 10


def test_failing_halfway_leaves_nothing(store):
    def fill(writer):
        filling(values(10))(writer)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.get("k", COLUMNS, 120, fill)
    assert store.find("k") is None
    assert store.used() == 0


def test_what_a_killed_process_left_is_not_taken_for_whole(store):
    left = store.folder / ".making-k"
    left.mkdir(parents=True)
    (left / "part-00000.arrow").write_bytes(b"half")
    assert store.find("k") is None
    assert torch.equal(made(store).fetch(torch.arange(10))["a"], values(10))
    assert not left.exists()


def test_a_full_disk_is_said(store, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_files._Hashing, "write", full)
    with pytest.raises(FeatureCacheError, match="the disk is full.*PARETUNE_CACHE"):
        made(store)
    monkeypatch.undo()
    assert store.used() == 0
    assert made(store).rows == 10


def test_more_than_the_budget_is_refused_before_any_work(tmp_path):
    store = Store(tmp_path, budget=100)
    with pytest.raises(FeatureCacheError, match="raise PARETUNE_CACHE_BYTES"):
        store.get("k", COLUMNS, 120, lambda writer: pytest.fail("worked"))


def test_more_than_was_foreseen_stops_at_the_budget(tmp_path):
    store = Store(tmp_path, budget=3000)
    with pytest.raises(FeatureCacheError, match="more than"):
        store.get("k", COLUMNS, 10, filling(values(1000)))
    assert store.used() == 0


def test_the_budget_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE_BYTES", "2e9")
    assert Store(tmp_path).budget == 2_000_000_000
    monkeypatch.setenv("PARETUNE_CACHE_BYTES", "much")
    with pytest.raises(FeatureCacheError, match="PARETUNE_CACHE_BYTES is 'much'"):
        _ = Store(tmp_path).budget


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    assert Store().folder == tmp_path / "features"


def test_least_recently_used_goes_first_and_nothing_in_use(tmp_path):
    size = Store(tmp_path / "measure").folder
    one = made(Store(size, budget=1 << 30), count=1000)
    store = Store(tmp_path / "features", budget=int(3.5 * one.nbytes))
    held = made(store, "held", 1000)
    for i, key in enumerate(("old", "new")):
        made(store, key, 1000)
        os.utime(store.folder / key / "manifest.json", (1e9 + i, 1e9 + i))
    os.utime(store.folder / "held" / "manifest.json", (1, 1))  # older than all
    store.find("old")  # used again: now "new" is the one
    made(store, "more", 1000)
    there = {p.name for p in store.folder.iterdir()} - {"locks"}
    assert there == {"held", "old", "more"}
    assert held.fetch(torch.arange(3))["a"].shape == (3, 3)
    again = [store.find(key) for key in ("old", "more")]
    with pytest.raises(FeatureCacheError, match="in use"):
        made(store, "another", 1000)
    del again


def _build(folder, seconds, queue):
    def fill(writer):
        queue.put(os.getpid())
        time.sleep(seconds)
        filling(values(10))(writer)

    reader = Store(folder, budget=1 << 30).get("k", COLUMNS, 120, fill)
    queue.put(float(reader.fetch(torch.arange(10))["a"].sum()))


def test_two_processes_make_a_key_once(store):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_build, args=(store.folder, 0.3, queue)) for _ in range(2)]
    for process in both:
        process.start()
    said = [queue.get(timeout=30) for _ in range(3)]
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert queue.empty()
    assert sum(isinstance(item, int) for item in said) == 1  # one of them filled
    assert len({item for item in said if isinstance(item, float)}) == 1


def test_a_value_of_another_shape_is_refused(store):
    def fill(writer):
        writer.add(torch.arange(2), {"a": torch.zeros(2, 3)})
        writer.add(torch.arange(2), {"a": torch.zeros(2, 4)})

    with pytest.raises(FeatureCacheError, match="all have one shape"):
        store.get("k", COLUMNS, 100, fill)


def test_eviction_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "paretune")
    one = made(Store(tmp_path / "measure", budget=1 << 30), count=1000)
    store = Store(tmp_path / "features", budget=int(1.5 * one.nbytes))
    made(store, "a", 1000)
    made(store, "b", 1000)
    assert "evicted cached features a" in caplog.text


@pytest.fixture
def read_only(store, monkeypatch):
    """From here on nothing in the folder can be written; as root, whom modes do not stop."""
    real = os.open

    def refuse(path, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def opened(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR) and os.path.exists(path):
            refuse(path)
        return refuse(path) if flags & os.O_CREAT else real(path, flags, *args, **kwargs)

    def lock():
        monkeypatch.setattr(os, "open", opened)
        for name in ("mkdir", "utime", "unlink", "replace", "rmdir"):
            monkeypatch.setattr(os, name, refuse)

    return lock


@pytest.mark.parametrize("locks", [True, False])
def test_a_folder_that_cannot_be_written_is_read(store, read_only, locks):
    made(store)
    if not locks:
        shutil.rmtree(store.folder / "locks")
    read_only()
    assert torch.equal(store.find("k").fetch(torch.arange(10))["a"], values(10))
    assert made(store).rows == 10
    with pytest.raises(FeatureCacheError, match="the folder cannot be written"):
        made(store, "other")
    with pytest.raises(FeatureCacheError, match="the folder cannot be written"):
        store.discard("k")


def test_a_file_in_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for store in (Store(tmp_path / "file"), Store(tmp_path / "file" / "in", budget=1 << 30)):
        assert store.find("k") is None
        with pytest.raises(FeatureCacheError, match="features were not cached"):
            made(store)


def test_an_error_in_filling_is_not_taken_for_the_disks(store):
    def fill(writer):
        raise PermissionError(errno.EACCES, "Permission denied", "photo.jpg")

    with pytest.raises(PermissionError, match=r"photo\.jpg"):
        store.get("k", COLUMNS, 120, fill)
    assert store.used() == 0


def test_nothing_is_evicted_for_what_does_not_fit_all_the_same(tmp_path):
    one = made(Store(tmp_path / "measure", budget=1 << 30), count=1000)
    store = Store(tmp_path / "features", budget=int(3.5 * one.nbytes))
    held = [made(store, key, 1000) for key in ("a", "b")]
    made(store, "free", 1000)
    with pytest.raises(FeatureCacheError, match="in use"):
        made(store, "more", 3000)
    assert store.find("free") is not None
    assert len(held) == 2


def test_what_is_being_made_reserves_its_room(tmp_path):
    one = made(Store(tmp_path / "measure", budget=1 << 30), count=1000)
    store = Store(tmp_path / "features", budget=int(1.5 * one.nbytes))

    def fill(writer):
        assert store.used() == one.nbytes
        with pytest.raises(FeatureCacheError, match="in use"):
            made(store, "other", 1000)
        filling(values(1000))(writer)

    store.get("k", COLUMNS, one.nbytes, fill)
    assert store.used() < 1.1 * one.nbytes
    assert sorted(p.name for p in (store.folder / "k").iterdir()) == [
        "manifest.json",
        "part-00000.arrow",
    ]


def test_discarded_features_are_gone_unless_they_are_used(store):
    reader = made(store)
    with pytest.raises(FeatureCacheError, match="in use"):
        store.discard("k")
    del reader
    store.discard("k")
    assert store.find("k") is None
    assert store.used() == 0

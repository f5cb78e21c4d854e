"""Machines of a cluster share features: made by one, copied by the others, and checked."""

from __future__ import annotations

import pytest
import torch

from study.store.storage import Storage
from trainables.frozen import shared_features
from trainables.frozen.feature_files import MANIFEST, Column
from trainables.frozen.feature_store import Store

KEY = "k" * 64


@pytest.fixture
def shelf(tmp_path):
    found = Storage.open(str(tmp_path / "shelf"))
    shared_features.share(found)
    yield found
    shared_features.share(None)


class Machine:
    """A store of its own, and how often it had to make something."""

    def __init__(self, folder) -> None:
        self.store, self.made = Store(folder, 10**9), 0

    def values(self) -> torch.Tensor:
        def fill(writer) -> None:
            self.made += 1
            writer.add(torch.arange(6), {"x": torch.arange(12.0).reshape(6, 2)})

        columns = {"x": Column(torch.float32, (2,), False, torch.float32)}
        found = self.store.get(KEY, columns, 100, fill, shard_bytes=30)
        return found.fetch(torch.arange(6))["x"]


def test_what_one_machine_made_the_others_copy(shelf, tmp_path):
    first, second = Machine(tmp_path / "a"), Machine(tmp_path / "b")
    assert torch.equal(first.values(), second.values())
    assert (first.made, second.made) == (1, 0)
    shelf.delete(KEY)
    assert torch.equal(second.values(), first.values()), "a copy is the machine's own"
    assert (first.made, second.made) == (1, 0)


def test_alone_a_machine_shares_nothing(tmp_path):
    first, second = Machine(tmp_path / "a"), Machine(tmp_path / "b")
    first.values(), second.values()
    assert (first.made, second.made) == (1, 1)


def _cut_a_shard(shelf):
    name = next(name for name in shelf.list(KEY) if name != MANIFEST)
    shelf.write_bytes(f"{KEY}/{name}", shelf.read_bytes(f"{KEY}/{name}")[:-1] + b"?")


def _lose_a_shard(shelf):
    shelf.delete(f"{KEY}/{next(name for name in shelf.list(KEY) if name != MANIFEST)}")


def _lead_out_of_the_folder(shelf):
    text = shelf.read_text(f"{KEY}/{MANIFEST}")
    shelf.write_text(f"{KEY}/{MANIFEST}", text.replace("part-", "../../part-"))


def _spoil_the_manifest(shelf):
    shelf.write_text(f"{KEY}/{MANIFEST}", '{"shards": [3]}')


def _manifest_last(shelf):
    shelf.delete(f"{KEY}/{MANIFEST}")


@pytest.mark.parametrize(
    "spoil",
    [_cut_a_shard, _lose_a_shard, _lead_out_of_the_folder, _spoil_the_manifest, _manifest_last],
    ids=lambda f: f.__name__.strip("_"),
)
def test_what_is_damaged_is_made_anew(shelf, tmp_path, spoil):
    first, second = Machine(tmp_path / "a"), Machine(tmp_path / "b")
    made = first.values().clone()
    spoil(shelf)
    before = set(tmp_path.rglob("part-*"))
    assert torch.equal(second.values(), made)
    new = {path for path in set(tmp_path.rglob("part-*")) - before}
    assert all((tmp_path / "b") in p.parents or (tmp_path / "shelf") in p.parents for p in new)


def test_a_shelf_that_refuses_costs_no_result(shelf, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("full")

    monkeypatch.setattr(Storage, "write_bytes", refuse)
    assert Machine(tmp_path / "a").values().shape == (6, 2)

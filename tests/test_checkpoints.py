"""A trial's checkpoints: when they are written, which one is found, and what it goes on to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attempt import begin, finish, timeless
from tiny_task import Shelf

from trainables import attempt as attempts
from trainables import checkpoints as module
from trainables.checkpoint import CheckpointError, State, flatten
from trainables.checkpoints import Checkpoints, file_names
from trainables.record import Choice, Status
from trainables.shelf import ShelfError

EPOCHS = 4
TRIALS = {
    "lora": {},
    "whole network": {"adapter": "dora", "method": "magnitude", "optimizer": "muon"},
    "progressive": {"recipe": Choice("progressive"), "method": "drop_base", "init": "residual"},
    "ema": {"hooks": (Choice("ema"), Choice("lisa")), "lr_schedule": Choice("cosine")},
    "pruned": {"hooks": (Choice("gradual_pruning"),), "method": "magnitude",
               "adapter": "quantized_merge"},
    "relora": {"hooks": (Choice("relora"),), "adapter": "lors", "method": "magnitude"},
    "calibrated": {"method": "gptq"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _a_step_an_epoch(monkeypatch):
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)


class Disk(Shelf):
    """Files in memory that can be read; it can be full."""

    full = False

    def exists(self, name):
        return name in self.files

    def read_bytes(self, name):
        return self.files[name]

    def write_bytes(self, name, data):
        if self.full:
            raise ShelfError("No space left on device")
        super().write_bytes(name, data)


class Clock:
    """Time that passes when it is told to, and with every write."""

    def __init__(self, monkeypatch, cost=0.0):
        self.now, self.cost = 100.0, cost
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def state(self):
        self.now += self.cost
        return flatten({"epochs_done": 1})


@pytest.mark.parametrize("name", TRIALS)
def test_killed_after_any_step_it_ends_as_if_it_had_not_been(name):
    """Files and figures to the bit, though each step is another worker's."""
    asked, shelf, kept = TRIALS[name] | {"epochs": EPOCHS}, Shelf(), Disk()
    straight = begin(shelf=shelf, **asked)
    expected = timeless(finish(straight, milestones=(2,)))
    assert expected.status is Status.COMPLETED

    one, seen = begin(**asked), []
    for life in range(EPOCHS + 1):
        following = begin(shelf=one.shelf, **asked)
        checkpoints = Checkpoints(kept, 0.0)
        checkpoints.begin(following.trial_id)
        if states := checkpoints.find():
            following.go_on(states)
            reports = following.advance((2,))
            assert [r.epochs_done for r in reports] == list(range(following.restored + 1))
            assert following.restored == life
        one = following
        seen += one.advance((2,))
        assert checkpoints.keep(one.state) or one.finished
    assert [r.epochs_done for r in seen] == list(range(EPOCHS + 1))
    assert timeless(one.outcome) == expected
    assert one.shelf.files == shelf.files
    assert not one.refusals


def kept(disk, epochs):
    """What a worker finds, before it keeps the state after so many epochs."""
    checkpoints = Checkpoints(disk, 0.0)
    checkpoints.begin("a")
    found = checkpoints.find()
    assert checkpoints.keep(lambda: flatten({"epochs_done": epochs}))
    return found


def test_of_two_generations_the_newer_is_found_and_the_older_overwritten():
    disk = Disk()
    for epochs in (1, 2, 3):
        found = kept(disk, epochs)
        stand = [state.tree[".epochs_done"] for state in found]
        assert stand == list(range(epochs - 1, max(0, epochs - 3), -1))
    held = [State.from_bytes(disk.files[n]).tree[".epochs_done"] for n in file_names("a")]
    assert sorted(held) == [2, 3]


def test_a_damaged_one_is_refused_by_name_and_the_one_before_it_taken():
    disk = Disk()
    for epochs in (1, 2):
        kept(disk, epochs)
    checkpoints = Checkpoints(disk, 0.0)
    checkpoints.begin("a")
    older, newer = file_names("a")
    disk.files[newer] = disk.files[newer][:-1]
    assert [state.tree[".epochs_done"] for state in checkpoints.find()] == [1]
    assert [r for r in checkpoints.remarks if newer in r and "damaged" in r]
    disk.files[older] = b""
    assert checkpoints.find() == []
    assert len([r for r in checkpoints.remarks if older in r]) == 1


SEALED = begin(epochs=0).state().to_bytes()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8 * len(SEALED) - 1))
def test_no_flipped_bit_goes_unseen(bit):
    data = bytearray(SEALED)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CheckpointError, match="damaged"):
        State.from_bytes(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, len(SEALED)).map(lambda n: SEALED[:n]))
def test_what_is_no_state_is_refused(data):
    if data != SEALED:
        with pytest.raises(CheckpointError):
            State.from_bytes(data)


def test_another_trial_s_is_refused_and_the_trial_begins_anew():
    other, mine = begin(epochs=3, method="rtn"), begin(epochs=3)
    other.advance((1,))
    mine.go_on([other.state()])
    reports = mine.advance()
    assert (reports[0].epochs_done, mine.restored) == (0, -1)
    assert mine.refusals == [f"is of trial {other.trial_id}"]
    assert timeless(finish(mine)) == timeless(finish(begin(epochs=3)))


def test_another_machine_s_base_is_refused_and_the_trial_begins_anew(monkeypatch):
    first, again = begin(epochs=3), begin(epochs=3)
    first.advance((1,))
    state = first.state()
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "base_hash", lambda model: "of this machine")
        again.go_on([state])
        assert again.advance()[0].epochs_done == 0
    assert "not the one that was trained on" in again.refusals[0]
    assert timeless(finish(again)) == timeless(finish(begin(epochs=3)))


def test_they_are_so_far_apart_as_was_asked(monkeypatch):
    clock, disk = Clock(monkeypatch), Disk()
    checkpoints = Checkpoints(disk, 5.0)
    checkpoints.begin("a")
    for second in range(1, 21):
        clock.now += 1
        assert checkpoints.keep(clock.state) == (second % 5 == 0)
    checkpoints.begin("b")  # a trial that is shorter has none
    clock.now += 4
    assert not checkpoints.keep(clock.state)


@pytest.mark.parametrize("cost", [0.01, 0.3, 10.0])
def test_they_take_a_small_share_of_the_time(monkeypatch, cost):
    clock, disk = Clock(monkeypatch, cost), Disk()
    checkpoints = Checkpoints(disk, 5.0)
    checkpoints.begin("a")
    began, written = clock.now, 0
    while clock.now < began + 10_000:
        clock.now += 1
        written += checkpoints.keep(clock.state)
    assert written
    # The first comes before its cost is known.
    assert (written - 1) * cost <= module.SHARE * (clock.now - began)


def test_a_full_disk_costs_a_checkpoint_and_not_the_trial(monkeypatch):
    clock, disk = Clock(monkeypatch), Disk()
    checkpoints = Checkpoints(disk, 1.0)
    checkpoints.begin("a")
    disk.full = True
    clock.now += 1
    checkpoints.keep(clock.state)
    assert checkpoints.remarks == ["no checkpoint: No space left on device"]
    disk.full = False
    clock.now += 1
    checkpoints.keep(clock.state)
    assert checkpoints.find()


def test_a_state_of_another_version_is_refused():
    first, again = begin(epochs=3), begin(epochs=3)
    first.advance((1,))
    state = first.state()
    tree = dict(state.tree)
    del tree[".so_far"]
    again.go_on([State(state.tensors, tree)])
    assert again.advance()[0].epochs_done == 0
    assert "of another version" in again.refusals[0]


def test_a_state_that_does_not_fit_is_refused_and_the_one_before_it_taken():
    """Whatever torch, or a plugin, raises of it."""
    first, again = begin(epochs=3), begin(epochs=3)
    first.advance((1,))
    good = first.state()
    first.advance((2,))
    newer = first.state()
    shrunk = {k: v.flatten()[:1] if v.ndim else v for k, v in newer.tensors.items()}
    again.go_on([State(shrunk, newer.tree), good])
    assert again.advance()[-1].epochs_done == 1
    assert again.restored == 1
    assert "has a tensor of shape (1,) where the model has" in again.refusals[0]
    assert timeless(finish(again, (2,))) == timeless(finish(first, (2,)))


def test_a_state_that_cannot_be_kept_costs_the_checkpoint_and_not_the_trial(monkeypatch):
    clock, disk = Clock(monkeypatch), Disk()
    checkpoints = Checkpoints(disk, 1.0)
    checkpoints.begin("a")
    clock.now += 1
    checkpoints.keep(lambda: flatten({"a plugin's": object()}))
    assert "can't be stored" in checkpoints.remarks[0]
    assert not disk.files

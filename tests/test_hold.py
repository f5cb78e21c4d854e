"""A storage that takes no files of trials: nothing starts, it is asked again, it ends in time."""

import pytest
from fake_runner import FakeRunner
from test_retries import told

from study.errors import StorageError
from study.loop.hold import Hold
from study.store.patience import FIRST_PAUSE

TROUBLE = {"trouble": "cannot write a: No space left on device", "done": True}


class Disk:
    """A storage and a clock."""

    def __init__(self, monkeypatch):
        self.now, self.full, self.asked, self.said = 0.0, True, 0, []
        monkeypatch.setattr("study.loop.hold.time.monotonic", lambda: self.now)

    def probe(self):
        self.asked += 1
        if self.full:
            raise StorageError("no space")

    def hold(self, seconds=60.0):
        return Hold(self.probe, seconds, self.said.append)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_it_is_asked_with_growing_pauses_until_it_works(disk):
    hold = disk.hold()
    assert hold.lifted()
    hold.begin("no space")
    assert not hold.lifted()
    assert disk.asked == 0
    for _ in range(300):
        disk.now += 0.1
        hold.lifted()
    assert 5 < disk.asked < 20
    disk.full = False
    disk.now += 6
    assert hold.lifted()
    assert [text.partition(";")[0] for text in disk.said] == [
        "no space",
        "the storage takes files again",
    ]


def test_where_the_probe_fits_and_files_do_not_it_ends_in_time(disk):
    hold, disk.full = disk.hold(60.0), False
    for _ in range(10):
        hold.begin("over quota")
        disk.now += 5.9
        assert hold.lifted()
        assert not hold.over
    disk.now += 2
    assert hold.over
    hold.stored()
    assert not hold.over


def test_a_study_waits_and_goes_on_as_if_nothing_had_been(disk):
    runner = FakeRunner()
    runner.driver.hold = disk.hold()
    assert runner.driver.next("t")["number"] == -4
    assert runner.driver.on_result("t", TROUBLE) is False
    assert not runner.driver.should_stop()
    disk.now += 2 * FIRST_PAUSE
    assert runner.driver.next("u") is None
    disk.full, disk.now = False, 30.0
    assert runner.run().driver.refused is None
    assert told(runner) == told(FakeRunner().run())


@pytest.mark.parametrize("interrupted", [True, False])
def test_what_ends_while_it_waits_is_paused(disk, interrupted):
    runner = FakeRunner()
    runner.driver.hold = disk.hold()
    runner.driver.next("t")
    runner.driver.on_result("t", TROUBLE)
    assert runner.driver.refused is None
    if interrupted:
        runner.driver.stop("by SIGINT")
    else:
        disk.now += 61
    assert runner.driver.next("u") == "FINISHED"
    assert "No space left on device; the study is paused" in runner.driver.refused

"""Hostile files: whatever is in them, they are refused by the error that is documented.

Plain pytest tries some of each kind, marker ``chaos`` more: ``FUZZ_INPUTS`` says how many of each.
The seed that an error names makes its input again: ``target.attack(seed)``.
"""

from __future__ import annotations

import os
import time
import traceback
import tracemalloc

import pytest
from fuzz_targets import TARGETS_BY_NAME, Target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compression.artifact import ArtifactError, deserialize, load, serialize
from compression.container import HEADER_BYTES

SECONDS = 5.0  # that one input may take, on a busy machine
# PEFT builds an adapter for each shape that a layer may have: of thousands of inputs, seconds.
SLOW = {"show": 40.0}
EXAMPLES = {"log": 60, "features": 40, "show": 30, "cut": 30, "config": 30}
names = pytest.mark.parametrize("name", TARGETS_BY_NAME)


@names
def test_a_valid_file_is_taken(name):
    target = TARGETS_BY_NAME[name]
    for data in target.seeds():
        assert target.survives(data)


@names
def test_a_hostile_file_is_refused_or_taken_but_nothing_else(name):
    target = TARGETS_BY_NAME[name]

    @settings(max_examples=EXAMPLES.get(name, 60), deadline=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def attempt(seed):
        assert wrong(target, seed) is None

    attempt()


# What long runs found, as seeds: the input of each was once taken by another error.
FOUND = [
    ("load", 268),
    ("keep_packed", 371),
    ("max_bytes", 2),
    ("max_bytes", 100_954),
    ("show", 101_761),
    ("config", 145),
    ("config", 459),
    ("log", 252),
    ("log", 1408),
    ("record", 4),
    ("study.json", 44),
    ("parquet", 28),
    ("features", 9),
    ("features", 117),
    ("features", 162),
]


@pytest.mark.parametrize(("name", "seed"), FOUND)
def test_what_was_found_is_refused(name, seed):
    assert wrong(TARGETS_BY_NAME[name], seed) is None


def test_a_file_is_checked_in_less_memory_than_three_of_it(tmp_path):
    whole = serialize(nn.Sequential(nn.Linear(2000, 1000)))
    path = tmp_path / "file"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="sha256"):
        load(str(path), nn.Sequential(nn.Linear(2000, 1000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(whole) <= peak < 3 * len(whole)


def test_a_header_that_would_fill_the_memory_is_not_read():
    text = b'{"__metadata__":' + b"[" * HEADER_BYTES
    with pytest.raises(ArtifactError, match="a header of"):
        deserialize(len(text).to_bytes(8, "little") + text, nn.Sequential())


@pytest.mark.chaos
@pytest.mark.timeout(24 * 3600)
@names
def test_many_hostile_files(name):
    target, start = TARGETS_BY_NAME[name], int(os.environ.get("FUZZ_START", "0"))
    count = int(os.environ.get("FUZZ_INPUTS", "300"))
    found = {}
    for seed in range(start, start + count):
        if problem := wrong(target, seed):
            found.setdefault(problem, seed)
    assert found == {}


def wrong(target: Target, seed: int) -> str | None:
    """What is wrong with how an input is taken, and where; None if nothing is."""
    data, began = target.attack(seed), time.process_time()
    try:
        target.survives(data)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        at = traceback.extract_tb(error.__traceback__)
        ours = [f for f in at if "site-packages" not in f.filename] or list(at)
        where = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:120]}"
    took = time.process_time() - began
    return f"took {took:.1f} s" if took > SLOW.get(target.name, SECONDS) else None

"""Who gets what of the machines."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import TinyTask, make_trial

from clusters.connection import THREADS
from compression.registry import InvalidSetting
from study.config import parse_config
from study.fields.sections import Resources
from study.loop.placement import Node, Room, largest, nodes_of, place
from trainables.hardware import peak
from trainables.hardware.peak import Peak
from trainables.record import Status

GB = 10**9
CARD = Node(32, 1, card="H100")


def never():
    raise AssertionError("nothing is measured without a card")


def test_without_a_card_trials_take_cpus():
    found = place(Resources(), "auto", [Node(2, memory=8e9)], never)
    assert found.resources == {"cpu": 1.0}
    assert (found.concurrency, found.device, found.memory) == (2, "cpu", 8e9)
    assert str(found) == "cpu, 1 thread"


def test_threads_and_trials_are_no_more_than_there_are_cpus():
    found = place(Resources(cpus=2), "auto", [Node(5), Node(3), Node(1)], never)
    assert found.concurrency == 3
    assert str(found) == "cpu, 2 threads"


def test_as_many_share_a_card_as_the_measured_step_leaves_room_for():
    found = place(Resources(), "auto", [CARD], lambda: Peak(9 * GB, 80 * GB))
    assert found.gpus == 0.125  # 76 GB / 9 GB, 5% left free
    assert (found.concurrency, found.device) == (8, "cuda")
    assert found.resources == {"cpu": 1.0, "gpu": 0.125}
    assert "8 trials to a card: one takes 9 of 80 GB" in found.remarks
    assert str(found) == "cuda, 0.125 H100, 1 thread"


def test_a_step_without_a_figure_gets_a_card():
    found = place(Resources(), "auto", [Node(32, 4)], lambda: Peak(error="out of memory: 90 GB"))
    assert (found.gpus, found.concurrency) == (1.0, 4)
    assert "out of memory: 90 GB" in found.remarks[0]


@given(st.integers(1, 200), st.integers(1, 16))
def test_shares_add_up_to_a_card_as_ray_counts(together, cards):
    node = Node(10_000, cards)
    found = place(Resources(), "auto", [node], lambda: Peak(95 * GB // together, 100 * GB))
    here = found.concurrency // cards
    assert here >= together
    assert here * round(found.gpus * 10_000) <= 10_000


@pytest.mark.parametrize(
    ("gpus", "cards", "fits"), [(0.25, 2, 8), (0.3, 2, 6), (1, 3, 3), (2, 3, 1), (0, 3, 32)]
)
def test_what_the_config_says_is_taken(gpus, cards, fits):
    assert place(Resources(gpus=gpus), "auto", [Node(32, cards)], never).concurrency == fits


def test_a_number_of_trials_is_held_down_aloud():
    found = place(Resources(cpus=2), 5, [Node(4)], never)
    assert found.concurrency == 2
    assert found.remarks == ("room for 2 trials at once, not 5",)
    assert place(Resources(), 3, [Node(4)], never).concurrency == 3


@pytest.mark.parametrize("resources", [{"cpus": 8}, {"gpus": 1}, {"gpus": 0.5}])
def test_what_no_machine_has_is_refused(resources):
    with pytest.raises(InvalidSetting, match="there: 4 CPUs and 0 GPUs; 2 CPUs and 0 GPUs"):
        place(Resources(**resources), "auto", [Node(4), Node(2)], never)


def test_memory_holds_trials_down_by_the_largest_so_far():
    said = []
    room = Room(8, 16e9, said.append)
    for gigabytes, limit in [(1, 8), (None, 8), (3, 5), (2, 5), (40, 1)]:
        room.take(gigabytes and gigabytes * GB)
        assert room.limit == limit
    assert said == [
        "memory for 5 trials at once: one took 3 of 16 GB",
        "memory for 1 trial at once: one took 40 of 16 GB",
    ]


def test_dead_nodes_and_those_without_cpus_do_not_count():
    alive = {"CPU": 4.0, "GPU": 1.0, "memory": 5.0, "accelerator_type:H100": 1.0}
    told = [
        {"Alive": True, "Resources": alive},
        {"Alive": False, "Resources": alive},
        {"Alive": True, "Resources": {"memory": 3.0}},
    ]
    assert nodes_of(told) == [Node(4.0, 1.0, 5.0, "H100")]


def test_the_largest_trial_of_a_space():
    text = "task: digits\nspace: {rank: [1, 8, 2], batch_size: {low: 8, high: 64}}"
    config = parse_config(text + "\nprecision: bfloat16")
    trial = largest(config.search_space(), 0)
    assert (trial.layers[0].rank, trial.batch_size, trial.precision) == (8, 64, "bfloat16")
    assert trial.layers[0].adapter.name == "lora"
    assert largest(parse_config("task: digits\nspace: {adapter: none}").search_space(), 0)


def test_one_step_on_the_largest_batch_is_rehearsed():
    task = TinyTask()
    data = task.prepare(0)
    attempt = peak.rehearse(task, data, make_trial(), torch.device("cpu"))
    assert attempt.outcome.status is Status.COMPLETED
    assert attempt.outcome.epochs_done == 1
    assert attempt.run.steps == 1


BAD = [
    ("{cpus: 0}", "resources.cpus: expected a number greater than 0, got 0"),
    ("{cpus: 1.5}", "resources.cpus: expected a valid integer, got 1.5"),
    ("{gpus: 1.5}", "resources.gpus: expected 0, a fraction of a GPU from 0.001 on, a whole"),
    ("{gpus: -1}", "or auto, got -1"),
    ("{gpus: yes}", "or auto, got 'yes'"),
    ("{gpu: 1}", "resources.gpu: unknown key 'gpu'; did you mean 'gpus'?"),
    ("3", "resources: expected a valid dictionary"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_wrong_resources(text, expected):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\nresources: {text}", "bad.yaml")
    (error,) = caught.value.errors
    assert error.startswith("bad.yaml:2: resources")
    assert expected in error


def test_precision_is_part_of_the_space_and_resources_are_not():
    plain = parse_config("task: digits").search_space().to_json()
    assert parse_config("task: digits\nprecision: float32").search_space().to_json() == plain
    assert parse_config("task: digits\nresources: {cpus: 2}").search_space().to_json() == plain
    assert parse_config("task: digits\nprecision: float16").search_space().to_json() != plain
    with pytest.raises(InvalidSetting, match="unknown precision 'bfloat'; did you mean 'bfloat16'"):
        parse_config("task: digits\nprecision: bfloat")


def test_the_environment_is_put_back(monkeypatch):
    import ray

    from clusters import connection

    seen = {}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **kw: seen.update(kw, env=dict(os.environ)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connection.connected(None, 4, threads=2):
        pass
    assert all(seen["env"][key] == "2" for key in THREADS)
    assert (seen["num_cpus"], seen["runtime_env"]) == (4, None)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    with connection.connected("auto", 4, threads=2):
        pass
    assert seen["runtime_env"]["env_vars"] == dict.fromkeys(THREADS, "2")


def test_a_machine_whose_memory_nobody_knows_has_room():
    room = Room(8, float("inf"), [].append)
    room.take(10**9)
    assert room.limit == 8

"""Cluster files: Ray's schema and our settings, all errors at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.errors import InvalidCluster
from clusters.file import ClusterFile, parse
from clusters.kinds import KINDS
from study.fields import yaml_lines

GOOD = """
cluster_name: tiny
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}
auth: {ssh_user: root}
metadata:
  study:
    storage: s3://bucket/studies
    trials_per_gpu: 2
    price: {head: 0.1}
"""


def read(text: str) -> ClusterFile:
    return parse(yaml_lines.load(text, "c.yaml"))


def test_a_file_gives_its_settings() -> None:
    file = read(GOOD)
    assert file.name == "tiny"
    assert file.settings.storage == "s3://bucket/studies"
    assert file.settings.trials_per_gpu == 2
    assert file.settings.price == {"head": 0.1}
    assert file.auth == {"ssh_user": "root"}


def test_without_our_section_the_defaults_count() -> None:
    assert read("cluster_name: a\nprovider: {type: local}\n").settings.idle_minutes == 30


def test_all_errors_are_said_at_once_with_their_lines() -> None:
    text = """
provider: {type: local}
max_worker: 3
idle_timeout_minutes: soon
metadata:
  study:
    trials_per_gpu: 0
    storages: here
"""
    with pytest.raises(InvalidCluster) as caught:
        read(text)
    said = "\n".join(caught.value.errors)
    assert "c.yaml:3: max_worker: unknown key 'max_worker'; did you mean 'max_workers'?" in said
    assert "cluster_name is missing" in said
    assert "c.yaml:4: idle_timeout_minutes: 'soon' is not of type" in said
    assert "c.yaml:7: metadata.study.trials_per_gpu: expected" in said
    assert "c.yaml:8: metadata.study.storages: unknown key 'storages'" in said
    assert len(caught.value.errors) == 5


def test_node_types_know_their_numbers() -> None:
    file = read(
        """
cluster_name: a
max_workers: 7
head_node_type: head
provider: {type: aws}
available_node_types:
  head: {node_config: {}, resources: {CPU: 2}}
  gpu: {node_config: {}, resources: {CPU: 8, GPU: 4}, min_workers: 1, max_workers: 3}
  any: {node_config: {}, resources: {}}
"""
    )
    head, gpu, some = file.node_types()
    assert (head.is_head, head.most, head.gpus) == (True, 0, None)
    assert (gpu.is_head, gpu.least, gpu.most, gpu.cpus, gpu.gpus) == (False, 1, 3, 8, 4)
    assert (some.most, some.gpus) == (7, None)


@pytest.mark.parametrize("path", sorted(Path("clusters").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_launcher_file_of_ours_is_right(path: Path) -> None:
    text = path.read_text()
    if "cluster_name:" not in text:
        pytest.skip("of another launcher")
    file = parse(yaml_lines.load(text, str(path)))
    assert file.provider["type"] in KINDS
    assert text.startswith("#"), "it opens with its command and its price"
    first = text.splitlines()[:6]
    assert any(f"python -m study.run --cluster {path}" in line for line in first)
    assert any("an hour" in line for line in first)

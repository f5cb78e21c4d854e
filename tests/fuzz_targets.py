"""What reads files that a user could be sent, with valid files and the errors it documents."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from log_helpers import every_kind, make_record, verified
from mutations import Mutation, either, mutate_bytes, mutate_json, mutate_safetensors
from networks import TARGETS, network, rule
from synthetic_study import info, study, write

from analysis.load import StudyDataError, load_study, parse_info, parse_record, parse_verification
from compression.adapters import ADAPTERS
from compression.artifact import ArtifactError, deserialize, serialize
from compression.methods import METHODS
from compression.model import compress_model, finalize
from compression.nested import cut_bytes, nest_of
from compression.opened import open_file
from compression.registry import InvalidSetting
from compression.show import as_json, as_text, levels_text
from study import log
from study.config import parse_config
from study.errors import StudyError
from study.finished import read as read_finished
from study.front.points import front
from study.state import StudyState
from study.store.storage import Storage
from trainables.checkpoint import CheckpointError, State, flatten, unflatten
from trainables.frozen.feature_files import Column, FeatureCacheError, Ragged, Writer
from trainables.frozen.feature_reader import Reader
from trainables.record import canonical, to_json


@dataclass(frozen=True)
class Target:
    """``read`` takes bytes and raises ``errors`` and nothing else, whatever they are."""

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutation
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]

    def attack(self, seed: int) -> bytes:
        """The input of a seed."""
        rng = random.Random(f"{self.name} {seed}")
        return self.mutate(rng, rng.choice(self.seeds()))

    def survives(self, data: bytes) -> bool:
        """Whether the input is refused as documented (False) or taken (True)."""
        try:
            self.read(data)
        except self.errors:
            return False
        return True


def _model(method: str, init: str, adapter: str, **settings: Any) -> bytes:
    plugin = ADAPTERS.build(adapter)
    rank, alpha = 2 if plugin.ranked else 0, 2.5 if plugin.scaled else None
    made = rule(method, init, plugin, rank, alpha, "[68]")
    rest = METHODS.build(settings.get("rest", "none"))
    generator = torch.Generator().manual_seed(0)
    model = compress_model(network(), [made], TARGETS, None, generator, rest)
    return serialize(finalize(model), {"trial": "x"})


MODELS = [
    ("rtn", "zeros", "lora"),
    ("int1", "residual", "dora"),
    ("svd", "zeros", "none"),
    ("nf4", "zeros", "vera"),
    ("magnitude", "zeros", "none"),
    ("ternary", "residual", "lora"),
    ("block_sparse", "zeros", "randlora"),
]


@cache
def models() -> list[bytes]:
    """Files of a small network under methods and adapters of each form."""
    found = [_model(method, init, adapter) for method, init, adapter in MODELS]
    return [*found, serialize(network()), _model("rtn", "zeros", "none", rest="cast")]


def nested() -> list[bytes]:
    """Those of :func:`models` that hold smaller ones."""
    return [models()[i] for i in (0, 2, -1)]


def _load(data: bytes) -> None:
    deserialize(data, network(9))


def _load_packed(data: bytes) -> None:
    deserialize(data, network(9), keep_packed=True)


def _load_smaller(data: bytes) -> None:
    deserialize(data, network(9), max_bytes=len(data) * 97 // 100)


def _in_file(read: Callable[[str], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_bytes(data)
            read(str(path))

    return run


def _show(path: str) -> None:
    file = open_file(path)
    json.dumps(as_json(file, None))
    list(as_text(file, None))
    list(levels_text(file))


def _cut(path: str) -> None:
    file = open_file(path)
    least = min(cut.bytes for _, cut in nest_of(file).cuts())
    cut_bytes(file, (least + file.length) // 2)


# --- logs


@cache
def logs() -> list[bytes]:
    return [b"".join(map(log.to_line, every_kind()))]


def _relined(rng: random.Random, data: bytes) -> bytes:
    """A line of the log changed in its JSON, its length and checksum made right; or the order."""
    lines = data.splitlines(keepends=True)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(8)
    if how == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif how == 1:
        lines.insert(at, lines[other])
    elif how == 2:
        del lines[at]
    else:
        text = mutate_json(rng, lines[at].split(b" ", 2)[2]).replace(b"\n", b" ")
        lines[at] = b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)
    return b"".join(lines)


def _replay(data: bytes) -> None:
    events, _ = log.parse(data)
    state = StudyState(events)
    for one in (state.ended, state.searched, state.records, state.confirmed, state.counts()):
        assert one is not None
    with suppress(StudyError):  # never opened
        assert state.study_id


# --- configs

CONFIG = b"""task: digits
trials: 8
epochs: 6
concurrency: 1
seed: 3
time_budget: 30m
searcher: {tpe: {startup: 4}}
scheduler: {asha: {}}
objectives: [accuracy, ratio, macs]
constraints: ["drop <= 1pp"]
keep: {margin: 0.01}
resources: {cpus: 1}
space:
  method: [{rtn: {bits: [2, 3, 4]}}, int1, [svd, rtn]]
  adapter: [lora, none]
  init: [residual]
  rank: [1, 2]
  optimizer: [adam]
  batch_size: [16, 32]
"""
_YAML = [
    b"&a", b"*a", b"[", b"{", b"]", b"}", b": ", b"\n", b"  ", b"- ", b"!!python/object:os.system ",
    b"!!binary ", b"?", b"|", b">", b"'", b'"', b"~", b".nan", b".inf", b"1e999", b"9" * 5000,
    b"-1", b"<<: ", b"%TAG", b"\x00", b"\xff", b"\xed\xa0\x80", b"[" * 2000, b"null", b"true",
]  # fmt: skip


def _rewritten(rng: random.Random, data: bytes) -> bytes:
    """A value, a key or a line of a YAML document, changed."""
    lines = data.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        how = rng.randrange(5)
        if how == 0:
            lines[at] = lines[other]
        elif how == 1:
            key, colon, _ = lines[at].partition(b":")
            lines[at] = key + colon + b" " + rng.choice(_YAML) + b"\n"
        elif how == 2:
            cut = rng.randrange(len(lines[at]))
            lines[at] = lines[at][:cut] + rng.choice(_YAML) + lines[at][cut:]
        elif how == 3:
            lines[at] = rng.choice((b"", b"  ", b"    ")) + lines[at].lstrip()
        else:
            words = b" ".join(lines).split()
            lines[at] = lines[at].replace(rng.choice(words), rng.choice(words))
    return b"".join(lines)


def _configure(data: bytes) -> None:
    parse_config(data.decode(errors="replace"), "fuzz.yaml")


# --- records and study.json


@cache
def records() -> list[bytes]:
    rows = study(12).rows
    return [canonical(make_record()).encode(), *(canonical(r.record).encode() for r in rows)]


@cache
def verifications() -> list[bytes]:
    found = [verified().verification, *study(12).verifications.values()]
    return [json.dumps(to_json(one)).encode() for one in found]


def _report(data: bytes) -> None:
    parse_info(data, "study.json")


@cache
def infos() -> list[bytes]:
    first, second = info()["objectives"]
    objectives = [first | {"unit": "fraction"}, second | {"unit": ""}]
    return [json.dumps(info() | {"objectives": objectives}).encode()]


def _finished(data: bytes) -> None:
    """All that commands read of ``study.json``, beside a log that is whole."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "study.json").write_bytes(data)
        Path(folder, "log.jsonl").write_bytes(logs()[0])
        found = read_finished(Storage.open(folder))
        assert found.objective
        assert found.demands
        for point in front(found):
            assert point.ratio > 0


@cache
def tables() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "s"), study(5))
        return [Path(folder, "s", "records", "records.parquet").read_bytes()]


def _table(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "records").mkdir()
        Path(folder, "study.json").write_text(json.dumps(info()))
        Path(folder, "records", "records.parquet").write_bytes(data)
        load_study(folder)


# --- checkpoints


@cache
def checkpoints() -> list[bytes]:
    tree = {"adapter": {"a": torch.ones(2, 3)}, "optimizer": {0: [torch.zeros(4), 1, 2.5, None]}}
    return [flatten(tree).to_bytes()]


def _checkpoint(data: bytes) -> None:
    unflatten(State.from_bytes(data))


# --- cached features: a manifest and a shard, one after the other

_CUT = b"\n\x00shard\x00\n"


@cache
def features() -> list[bytes]:
    columns = {"x": Column(torch.float32, (2,)), "y": Column(torch.int64, (), True)}
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), columns, 1 << 20)
        ragged = Ragged((torch.arange(6), torch.tensor([1, 0, 2, 3])))
        writer.add(torch.tensor([2, 0, 1, 3]), {"x": torch.ones(4, 2), "y": ragged})
        writer.close({"about": "fuzz"})
        return [
            Path(folder, "manifest.json").read_bytes()
            + _CUT
            + Path(folder, "part-00000.arrow").read_bytes()
        ]


def _disordered(rng: random.Random, data: bytes) -> bytes:
    manifest, _, shard = data.partition(_CUT)
    if rng.random() < 0.5:
        return mutate_json(rng, manifest) + _CUT + shard
    shard = mutate_bytes(rng, shard)
    told = json.loads(manifest)
    told["shards"][0]["sha256"] = hashlib.sha256(shard).hexdigest()
    return json.dumps(told).encode() + _CUT + shard


def _features(data: bytes) -> None:
    manifest, _, shard = data.partition(_CUT)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(manifest)
        Path(folder, "part-00000.arrow").write_bytes(shard)
        reader = Reader(Path(folder))
        reader.fetch(torch.arange(reader.rows))


_MODEL = either(mutate_safetensors("paretune"), 0.95)
_TREE = either(mutate_json, 0.8)

TARGETS_BY_NAME = {
    target.name: target
    for target in (
        Target("load", models, _MODEL, _load, (ArtifactError,)),
        Target("keep_packed", models, _MODEL, _load_packed, (ArtifactError,)),
        Target("max_bytes", nested, _MODEL, _load_smaller, (ArtifactError,)),
        Target("show", models, _MODEL, _in_file(_show), (ArtifactError,)),
        Target("cut", models, _MODEL, _in_file(_cut), (ArtifactError,)),
        Target("log", logs, either(_relined, 0.8), _replay, (StudyError,)),
        Target("config", lambda: [CONFIG], either(_rewritten, 0.9), _configure, (InvalidSetting,)),
        Target(
            "record", records, _TREE, lambda d: parse_record(d, "f"), (StudyDataError,)
        ),
        Target(
            "verification", verifications, _TREE, lambda d: parse_verification(d, "f"),
            (StudyDataError,),
        ),
        Target("info", lambda: [json.dumps(info()).encode()], _TREE, _report, (StudyDataError,)),
        Target(
            "study.json", infos, _TREE, _finished,
            (StudyError, InvalidSetting),
        ),
        Target("parquet", tables, mutate_bytes, _table, (StudyDataError,)),
        Target(
            "checkpoint", checkpoints, either(mutate_safetensors("state"), 0.9), _checkpoint,
            (CheckpointError,),
        ),
        Target("features", features, either(_disordered, 0.9), _features, (FeatureCacheError,)),
    )
}  # fmt: skip

"""The saved file: whole, unchanged, deterministic, and equal to what ran."""

import copy
import hashlib
import itertools
import json
import pathlib
import subprocess
import sys

import pyarrow.fs
import pytest
import torch
from networks import (
    COMMON,
    TARGETS,
    WHOLE,
    calibration,
    fit,
    generator,
    inputs,
    methods_and_inits,
    network,
    pattern_for,
    rule,
)
from torch import nn

import compression
from compression.adapters import ADAPTERS
from compression.artifact import ArtifactError, deserialize, load, read_header, save, serialize
from compression.methods import METHODS
from compression.model import compress_model, finalize, trainable


def trained(method="rtn", init="zeros", adapter="lora", rank=4, rest="none", **adapter_args):
    """A compressed model whose adapters and BatchNorm have moved from where they start."""
    rank = 0 if adapter == "none" else rank
    plugin = ADAPTERS.build(adapter, adapter_args)
    pattern = pattern_for(method)
    made = rule(method, init, plugin, rank, 2.5 if rank else None, pattern)
    model = network()
    with torch.no_grad():
        model[1].running_mean.uniform_(generator=generator())
    rest = METHODS.build(rest)
    compress_model(model, [made], TARGETS, None, generator(), rest, calibration=calibration())
    moves = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=moves))
    return finalize(model)


def combinations():
    pairs = [(method, init) for method, init in methods_and_inits() if method in WHOLE]
    for (method, init), adapter in itertools.product(pairs, COMMON):
        if (adapter != "none" or init == "zeros") and fit(method, adapter):
            yield method, init, adapter


@pytest.mark.parametrize("rest", ["none", "cast"])
@pytest.mark.parametrize(("method", "init", "adapter"), combinations())
def test_loading_gives_bitwise_the_same_logits(method, init, adapter, rest, tmp_path):
    model = trained(method, init, adapter, rest=rest)
    path = str(tmp_path / "model.safetensors")
    save(model, path)
    loaded = load(path, network(seed=9))
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert serialize(loaded) == serialize(model)
    assert not loaded.training
    assert not trainable(loaded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_rounded_adapters_come_back_bitwise(adapter, dtype):
    model = trained("int1", "residual", adapter, dtype=dtype)
    data = serialize(model)
    assert torch.equal(deserialize(data, network(9))(inputs()), model(inputs()))
    assert len(data) < len(serialize(trained("int1", "residual", adapter)))


def test_values_that_would_change_by_saving_are_refused():
    model = compress_model(
        network(), [rule("rtn", "residual", ADAPTERS.build("lora", {"dtype": "float16"}), 3)], ["*"]
    )
    with pytest.raises(ArtifactError, match=r"'0.lora_A' would change .* compression.finalize"):
        serialize(model)
    model = compress_model(network(), [rule("rtn")], TARGETS, rest=METHODS.build("cast"))
    model[1].running_mean.add_(0.1)
    with pytest.raises(ArtifactError, match=r"1.running_mean.*would change"):
        serialize(model)


def test_the_decoded_weight_is_what_the_file_holds_in_a_fresh_process(tmp_path):
    path, model = str(tmp_path / "m.safetensors"), trained("rtn", "loftq", "dora")
    save(model, path)
    tests = str(pathlib.Path(__file__).parent)
    torch.save({"x": inputs(), "y": model(inputs()).detach()}, tmp_path / "expected.pt")
    code = (
        f"import sys, torch; sys.path.insert(0, {tests!r}); from networks import network\n"
        "from compression import load\n"
        f"saved = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"assert torch.equal(load({path!r}, network(3))(saved['x']), saved['y'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_none_is_byte_for_byte_the_dense_file():
    dense = network()
    untouched = compress_model(copy.deepcopy(dense), [rule()], TARGETS)
    assert serialize(untouched) == serialize(dense)
    assert torch.equal(deserialize(serialize(dense), network(9))(inputs()), dense(inputs()))


def test_bytes_are_deterministic():
    assert serialize(trained("svd", "loftq", "dora")) == serialize(trained("svd", "loftq", "dora"))


def test_save_returns_the_hash_of_the_file_and_leaves_nothing_aside(tmp_path):
    path = tmp_path / "model.safetensors"
    for _ in range(2):  # over an older file as well
        digest = save(trained(), str(path), {"trial": "x"})
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_pyarrow_filesystems(tmp_path):
    filesystem = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    model = trained()
    save(model, "model.safetensors", filesystem=filesystem)
    loaded = load("model.safetensors", network(9), filesystem)
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert (tmp_path / "model.safetensors").read_bytes() == serialize(model)
    assert read_header("model.safetensors", filesystem).compression.layers


def test_the_header_says_what_was_done(tmp_path):
    path, model = str(tmp_path / "m.safetensors"), trained("svd", "pissa", "dora", rest="cast")
    save(model, path, {"trial": "abc"})
    header = read_header(path)
    assert header.compression.layers == model.compression.layers
    assert header.compression.rest == METHODS.build("cast")
    assert header.about == {"trial": "abc"}


def test_the_header_holds_no_numbers_of_weights():
    def header_length(width):
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        data = serialize(compress_model(model, [rule("rtn", "residual", "lora", 2)], TARGETS))
        return int.from_bytes(data[:8], "little")

    # Four times the weights: only shapes and offsets get longer digits.
    assert header_length(128) - header_length(32) < 64


def test_file_opens_as_plain_safetensors_with_the_packed_tensors():
    from safetensors.torch import load as read

    model = trained("rtn", "zeros", "lora")
    tensors = read(serialize(model))
    for name in model.compression.layers:
        for slot, tensor in model.get_submodule(name).base_layer.packed.state().items():
            assert torch.equal(tensors[f"{name}.{slot}"], tensor)


# Shared and unusual tensors.


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def test_tied_storage_is_stored_once_and_comes_back_tied():
    torch.manual_seed(0)
    model, untied = Tied(), Tied(tied=False)
    assert len(serialize(model)) < len(serialize(untied)) - model.embed.weight.nbytes
    compress_model(model, [rule("rtn", "zeros", "lora", 2)], ["body"])
    loaded = deserialize(serialize(model), Tied())
    x = torch.arange(6)
    assert torch.equal(loaded(x), model(x))
    assert loaded.head.weight is loaded.embed.weight
    with pytest.raises(ArtifactError, match=r"tensors missing: head.weight"):
        deserialize(serialize(model), Tied(tied=False))


def test_scalars_integers_and_strided_tensors():
    def make(fill):
        model = nn.Sequential(nn.Linear(4, 4))
        model.register_buffer("temperature", torch.tensor(float(fill)))
        model.register_buffer("empty", torch.zeros(0))
        model.register_buffer("table", (torch.arange(6) * fill).view(2, 3).T)
        return model

    model = compress_model(make(2), [rule("rtn")], TARGETS, rest=METHODS.build("cast"))
    loaded = deserialize(serialize(model), make(0))
    assert loaded.temperature == 2
    assert torch.equal(loaded.table, model.table)


def test_half_precision_checkpoints_stay_half():
    dense = network().half()
    assert len(serialize(dense)) < 0.6 * len(serialize(network()))
    loaded = deserialize(serialize(dense), network(9).half())
    assert torch.equal(loaded[6].weight, dense[6].weight)
    with pytest.raises(ArtifactError, match=r"'0.weight' is torch.float32"):
        deserialize(serialize(network()), network(9).half())


def test_no_pickle_in_the_package():
    folder = pathlib.Path(compression.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text()
        for word in ("import pickle", "torch.load", "torch.save", "joblib", "marshal", "eval("):
            found = text.replace(".eval(", "").count(word)
            assert not found, f"{path}: {word}"


def test_metadata_is_one_json_entry():
    data = serialize(trained())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"]) == ["paretune"]
    entry = json.loads(header["__metadata__"]["paretune"])
    assert list(entry) == ["sha256", "schema", "specs"]

"""Files that must not load: cut, changed, foreign, too new, of another architecture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TARGETS, rule
from safetensors.torch import save as save_tensors
from torch import nn

from compression import container
from compression.artifact import ArtifactError, deserialize, load, serialize
from compression.methods import METHODS
from compression.model import Compression, LayerEntry, compress_model


def small_file():
    model = nn.Sequential(nn.Linear(3, 2))
    return serialize(compress_model(model, [rule("rtn", "zeros", "lora", 1)], TARGETS))


def build_small():
    return nn.Sequential(nn.Linear(3, 2))


def test_a_flipped_bit_in_any_byte_is_found():
    data = small_file()
    deserialize(data, build_small())
    for at in range(len(data)):
        for bit in (1, 32):  # 32 turns the case of a letter
            changed = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with pytest.raises(ArtifactError):
                deserialize(changed, build_small())


def test_a_file_cut_anywhere_is_found():
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            deserialize(data[:length], build_small())
    with pytest.raises(ArtifactError):
        deserialize(data + b"\0", build_small())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(ArtifactError):
        deserialize(data, build_small())


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(small_file()[:-3])
    with pytest.raises(ArtifactError, match=r"broken.safetensors: sha256: .*cut short"):
        load(str(path), build_small())
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "absent"), build_small())


def test_foreign_safetensors_are_refused():
    for metadata in (None, {"format": "pt"}):
        data = save_tensors({"0.weight": torch.zeros(2, 3)}, metadata)
        with pytest.raises(ArtifactError, match="not one written by paretune"):
            deserialize(data, build_small())


def with_header(edit):
    """A small file whose header JSON is changed and whose checksum is right."""
    original = container._to_json

    def changed(done, about):
        entry = original(done, about)
        edit(entry)
        return entry

    container._to_json = changed
    try:
        return small_file()
    finally:
        container._to_json = original


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.update(schema=2), "schema 2; this version reads schema 1: update"),
        (lambda e: e.update(cuts=[]), "unknown header fields: cuts"),
        (
            lambda e: e["specs"][0].update(method=["rtm"]),
            "unknown method 'rtm'; did you mean 'rtn'",
        ),
        (lambda e: e["specs"][0].update(method=["rtn", {"bits": 99}]), "rtn.bits"),
        (lambda e: e["specs"][0].update(adapter=["lore"]), "unknown adapter 'lore'"),
        (lambda e: e["specs"][0].update(method=["int1"]), r"'0.signs' is missing"),
        (lambda e: e["specs"][0].update(rank=2), r"'0.lora_A' is .*needs .* \(2, 3\)"),
        (lambda e: e["specs"][0].update(layers=["fc"]), "layer 'fc' is not in this Sequential"),
        (lambda e: e["specs"][0].pop("layers"), "damaged"),
        (
            lambda e: e.update(edits=[["bypas"]]),
            r"artifact: edits\[0\]: unknown edit 'bypas'; did you mean 'bypass'",
        ),
        (
            lambda e: e.update(edits=[["bypass", {"module": "fc"}]]),
            r"artifact: edits\[0\]: bypass.module: 'fc' is not in this Sequential",
        ),
        (lambda e: e.update(edits=[["bypass", {"module": "0"}]]), "layer '0' is a Skipped"),
        (lambda e: e.update(edits=[["bypass", {"module": 0}]]), "expected a dotted module path"),
        (lambda e: e.update(edits=[["bypass", {"modul": "0"}]]), "unknown knob 'modul'"),
        (lambda e: e.update(edits=[[]]), "damaged"),
        (lambda e: e.update(edits="bypass"), "edits"),
    ],
)
def test_headers_that_do_not_fit_are_named(edit, message):
    with pytest.raises(ArtifactError, match=message):
        deserialize(with_header(edit), build_small())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 2)), r"'0.codes' is|'0.lora_A' is"),
        (lambda: nn.Sequential(nn.Linear(3, 2, bias=False)), "unknown to this model: 0.bias"),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "missing: 1.weight, 1.bias"),
        (lambda: nn.Sequential(nn.ReLU()), "layer '0' is a ReLU"),
    ],
)
def test_another_architecture_is_refused(model, message):
    with pytest.raises(ArtifactError, match=message):
        deserialize(small_file(), model())


def test_a_grouped_convolution_under_an_adapter_is_refused_on_loading():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    data = serialize(compress_model(model, [rule("none", "zeros", "lora", 1)], TARGETS))
    with pytest.raises(ArtifactError, match="groups=2"):
        deserialize(data, nn.Sequential(nn.Conv2d(8, 4, 3, groups=2)))


def test_a_file_with_missing_and_unknown_tensors_names_both():
    entries = {"0": LayerEntry(METHODS.build("none"))}
    data = container.pack_file({"x": torch.zeros(1)}, Compression(entries), {})
    with pytest.raises(ArtifactError, match=r"missing: 0.weight, 0.bias; .*unknown .*: x"):
        deserialize(data, build_small())


def test_a_tensor_named_as_the_metadata_is_refused():
    model = nn.Module()
    model.register_buffer("__metadata__", torch.zeros(2))
    with pytest.raises(ArtifactError, match="'__metadata__'"):
        serialize(model)

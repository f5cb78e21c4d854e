"""What a file tells of itself: nothing guessed, every byte accounted for."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from networks import (
    WHOLE,
    fit,
    layer_stats,
    network,
    variants,
)
from test_artifact import trained
from torch import nn

from compression import compress_model, compression_of, read_header, save, serialize
from compression.found_shape import found_shape
from compression.layer_facts import decibels, differences, facts
from compression.methods import METHODS
from compression.methods.base import matrix_shape
from compression.model import Rule
from compression.opened import open_file
from compression.show import main
from compression.size import macs, measure

SHAPES = [(5, 7), (12, 70), (4, 3, 3, 3)]
TOLD = {"svd", "whitened_svd", "rtn", "gptq", "int1", "nf4", "ternary", "hqq", "n_m+rtn"}


@pytest.fixture
def dense(tmp_path):
    path = str(tmp_path / "dense.safetensors")
    save(network(), path)
    return path


def saved(tmp_path, *args, name="m.safetensors", **more):
    model, path = trained(*args, **more), str(tmp_path / name)
    save(model, path)
    return model, path


def run(*args):
    return CliRunner().invoke(main, list(args))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_a_shape_is_found_or_unknown_but_never_wrong(name, bias):
    found = set()
    for method in variants(METHODS):
        for shape in SHAPES if method.name == name else ():
            packed = method.compress(torch.randn(shape), layer_stats(shape))
            forms = {n: (t.dtype, tuple(t.shape)) for n, t in packed.state().items()}
            forms |= {"bias": (torch.float32, shape[:1])} if bias else {}
            told = found_shape(packed.method, forms)
            assert told in (shape, matrix_shape(shape), None)
            found.add(told is not None)
    assert True in found or name not in TOLD


@pytest.mark.parametrize(
    ("adapter", "rest"), [("none", "none"), ("lora", "cast"), ("dora", "none")]
)
@pytest.mark.parametrize("method", WHOLE)
def test_bytes_by_part_are_those_that_are_counted_and_add_up(method, adapter, rest, tmp_path):
    if not fit(method, adapter):
        pytest.skip("nothing would be left of a layer")
    model, path = saved(tmp_path, method, "zeros", adapter, rest=rest)
    opened = open_file(path)
    # A layer that is left dense is in no header: without targets it is like all the others.
    dense = {n for n in "0368" if n not in read_header(path).compression.layers}
    counted, told = dict(measure(model, ["*"]).model), dict(opened.parts)
    weights = sum(model.get_submodule(name).weight.nbytes for name in dense)
    counted |= {"base": counted["base"] - weights, "untouched": counted["untouched"] + weights}
    assert {p: n for p, n in counted.items() if n} == {p: n for p, n in told.items() if n}
    assert sum(opened.parts.values()) == len(serialize(model))
    listed = sum(sum(facts(layer).bytes.values()) for layer in opened.layers.values())
    others = sum(tensor.nbytes for tensor in opened.others.values())
    assert listed + others + opened.parts["header"] == opened.length


@pytest.mark.parametrize("method", WHOLE)
def test_with_the_dense_file_every_layer_is_decoded_as_it_runs(method, tmp_path, dense):
    adapter = "lora" if METHODS[method].base_is_gone else "none"
    model, path = saved(tmp_path, method, "zeros", adapter)
    truth = open_file(dense)
    opened = open_file(path, truth)
    at = dict.fromkeys(compression_of(model).layers, 1)
    for name in at:
        layer = opened.layers[name]
        weight = getattr(model.get_submodule(name), "base_layer", model.get_submodule(name)).weight
        assert layer.shape == tuple(weight.shape)
        torch.testing.assert_close(layer.weight(), weight.detach(), rtol=0, atol=0)
        assert facts(layer, truth).db == decibels(
            truth.layers[name].weight().flatten(1), weight.flatten(1)
        )
    work = sum(facts(opened.layers[name]).macs for name in at)
    assert work == macs(model, {**dict.fromkeys("0368", 0), **at})


@pytest.mark.parametrize("adapter", ["lora", "rslora", "adalora", "sora"])
def test_the_second_error_is_that_of_the_adapted_weight(adapter, tmp_path, dense):
    model, path = saved(tmp_path, "rtn", "zeros", adapter)
    truth = open_file(dense)
    opened = open_file(path, truth)
    for name, entry in compression_of(model).layers.items():
        weight = truth.layers[name].weight().flatten(1)
        layer = model.get_submodule(name)
        sum_ = layer.base_layer.weight.flatten(1) + entry.adapter.delta(model, name)
        told = facts(opened.layers[name], truth)
        assert told.adapted_db == pytest.approx(decibels(weight, sum_.detach()), abs=1e-3)
        assert told.adapted_db != told.db


def test_decibels():
    w = torch.randn(4, 5)
    assert decibels(w, 0.9 * w) == pytest.approx(-20, abs=1e-4)
    assert decibels(w, w) == -math.inf
    assert decibels(torch.zeros(2), torch.ones(2)) == math.inf


def test_the_table_names_layers_ends_with_the_file_and_says_what_is_missing(tmp_path, dense):
    _, path = saved(tmp_path, "svd", "zeros", "lora")
    alone = run(path).output
    assert "--dense FILE" in alone
    assert "12x45" in alone
    assert "dB" not in alone.split("\n")[0]
    lines = run(path, "--dense", dense).output.splitlines()
    assert lines[0].split()[:4] == ["layer", "method", "adapter", "shape"]
    assert "6x1x3x3" in lines[1]
    length = int(lines[-1].split()[0])
    assert int(lines[-2].split()[-1]) == length
    assert sum(int(line.split()[-1]) for line in lines[1:-2]) == length


def test_json_is_the_same_and_parses(tmp_path, dense):
    _, path = saved(tmp_path, "svd", "zeros", "none")
    data = json.loads(run(path, "--json", "--dense", dense).output)
    assert data["ratio"] == data["dense_bytes"] / data["bytes"]
    assert sum(data["parts"].values()) == data["bytes"]
    assert [layer["shape"] for layer in data["layers"]][-1] == [7, 12]


def test_equal_layers_are_one_line_and_others_say_what_differs(tmp_path):
    _, one = saved(tmp_path, "rtn", "zeros", "none", name="one")
    assert run(one, "--diff", one).output == "4 layers equal\n"
    model = network()
    first = METHODS.build("rtn", {"bits": 8})
    compress_model(model, [Rule("8", (first,)), Rule("*", (METHODS.build("rtn"),))], ["*"])
    other = str(tmp_path / "other")
    save(model, other)
    found = {d.name: d for d in differences(open_file(one), open_file(other))}
    assert [name for name in found if found[name].what] == ["8"]
    assert found["8"].what == ("method rtn -> rtn(bits=8)",)
    assert found["8"].db < -20
    assert "3 layers equal" in run(one, "--diff", other).output


def test_equal_settings_with_other_values_differ(tmp_path):
    _, one = saved(tmp_path, "rtn", "zeros", "lora", name="one")
    model = trained("rtn", "zeros", "lora")
    model[6].lora_B["default"].weight.data.add_(1)
    save(model, str(tmp_path / "two"))
    assert run(one, "--diff", str(tmp_path / "two")).output.startswith("6: values; ")


def test_wrong_files_end_with_two_and_a_line_each(tmp_path, dense):
    _, path = saved(tmp_path, "svd", "zeros", "none")
    whole = open(path, "rb").read()
    (tmp_path / "cut").write_bytes(whole[:-9])
    (tmp_path / "text").write_text("hello")
    other = nn.Sequential(nn.Linear(45, 12), nn.Linear(12, 8))
    save(other, str(tmp_path / "other"))
    for name, says in {"cut": "cut", "text": "no safetensors", "absent": "No such file"}.items():
        done = run(str(tmp_path / name))
        assert done.exit_code == 2
        assert says in done.output
        assert len(done.output.splitlines()) == 1
    for option in ("--dense", "--diff"):
        done = run(path, option, str(tmp_path / "other"))
        assert done.exit_code == 2
        assert all("another architecture" in line for line in done.output.splitlines())
        assert "'3'" in done.output

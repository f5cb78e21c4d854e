"""The models inside a saved one: sizes kept to the byte, the best first, the same by every way."""

import itertools
import math

import pytest
import torch
from click.testing import CliRunner
from networks import TARGETS, calibration, generator, inputs, network
from test_artifact import trained
from torch import nn

from compression import ArtifactError, compress_model, load, save, serialize
from compression.adapters import ADAPTERS
from compression.container import pack_file, unpack_file
from compression.cut import main as cut_command
from compression.methods import METHODS
from compression.model import Rule
from compression.nested import Nest, levels, nest_of
from compression.opened import open_file
from compression.show import main as show_command


def model_under(*methods, adapter="none"):
    model = network()
    made = ADAPTERS.build(adapter)
    rank = 2 if made.ranked and adapter != "none" else 0
    rules = [Rule(methods=methods, adapter=made, rank=rank)]
    return compress_model(model, rules, TARGETS, None, generator(), calibration=calibration())


def built(name, **args):
    return METHODS.build(name, args)


FORMS = {
    "svd": (built("svd", rank=6),),
    "whitened_svd": (built("whitened_svd", rank=6),),
    "svd+rtn": (built("svd", rank=6), built("rtn")),
    "svd_cascade": (built("svd_cascade", pairs=3, rank=2),),
    "int1": (built("int1", passes=3),),
    "acip": (built("acip", rank=6),),
    "rtn": (built("rtn", bits=8, mode="asymmetric"),),
    "magnitude+rtn": (built("magnitude"), built("rtn", bits=8)),
}


@pytest.fixture(params=FORMS)
def file(request, tmp_path):
    path = str(tmp_path / "m.safetensors")
    save(model_under(*FORMS[request.param], adapter="lora"), path, {"trial": "x"})
    return path


def test_taking_a_file_apart_and_packing_it_again_gives_the_same_bytes(file):
    data = open(file, "rb").read()
    header, tensors = unpack_file(data, file)
    assert pack_file(tensors, header.compression, header.about) == data


def test_every_level_is_a_file_of_just_that_length_inside_the_one_before(file):
    nest = nest_of(open_file(file))
    offered = levels(file)
    assert len(offered) > 4
    assert offered[0].bytes == len(open(file, "rb").read())
    before = None
    for (state, cut), told in zip(nest.cuts(), offered, strict=True):
        header, tensors = nest.cut(state)
        data = pack_file(tensors, header.compression, header.about)
        assert len(data) == cut.bytes == told.bytes
        assert cut.error == pytest.approx(true_error(nest, tensors, header), rel=1e-3, abs=1e-6)
        if before is not None:
            assert cut.bytes < before[1].bytes
            assert cut.error >= before[1].error
            assert all(form >= before[0][name] for name, form in state.items())
        before = state, cut


def true_error(nest, tensors, header):
    total = 0.0
    for name, shape in nest.shapes.items():
        if name not in nest.ladders:
            continue
        weights = []
        for done, held in ((nest.header, nest.tensors), (header, tensors)):
            method = done.compression.layers[name].method
            own = {slot: held[f"{name}.{slot}"] for slot in method.layout(shape)}
            weights.append(method.decode(own, shape).double())
        total += float((weights[0] - weights[1]).square().sum())
    return total


def test_loading_within_bytes_saving_and_cutting_are_one(file, tmp_path):
    offered = [cut.bytes for cut in levels(file)]
    for max_bytes in {offered[0], offered[1], offered[len(offered) // 2] + 7, offered[-1]}:
        small = str(tmp_path / "small")
        done = CliRunner().invoke(
            cut_command, [file, "--max-bytes", f"{max_bytes}B", "--output", small]
        )
        assert done.exit_code == 0, done.output
        loaded = load(file, network(3), max_bytes=max_bytes)
        data = open(small, "rb").read()
        assert serialize(loaded, {"trial": "x"}) == data
        assert len(data) <= max_bytes
        assert torch.equal(load(small, network(4))(inputs()), loaded(inputs()))
    assert (
        serialize(load(file, network(3), max_bytes=10**9), {"trial": "x"})
        == open(file, "rb").read()
    )


def test_below_the_least_the_error_names_it_and_what_takes_it(file, tmp_path):
    least = levels(file)[-1].bytes
    with pytest.raises(ArtifactError, match=f"the least has {least}: .* of header"):
        load(file, network(3), max_bytes=least - 1)
    done = CliRunner().invoke(
        cut_command, [file, "--max-bytes", f"{least - 1}", "--output", str(tmp_path / "no")]
    )
    assert done.exit_code == 2
    assert str(least) in done.output
    assert not (tmp_path / "no").exists()


def test_what_is_chosen_fits_and_is_the_best_of_all_choices():
    """Against all combinations, the header's length included."""
    nest = nest_from([built("svd", rank=4), built("int1", passes=3), built("rtn", bits=5)])
    names = list(nest.ladders)
    every = [
        dict(zip(names, forms, strict=True))
        for forms in itertools.product(*(range(len(nest.ladders[n].forms)) for n in names))
    ]
    known = [(nest.length(state), nest.error(state)) for state in every]
    for max_bytes in range(min(known)[0], max(known)[0], 37):
        state = nest.within(max_bytes)
        assert nest.length(state) <= max_bytes
        assert nest.error(state) >= best(known, max_bytes) - 1e-12
        # Another choice's header may be shorter: it leaves out bits and passes that are defaults.
        assert nest.error(state) <= best(known, max_bytes - 40) + 1e-12


def best(known, max_bytes):
    return min((error for length, error in known if length <= max_bytes), default=math.inf)


def nest_from(methods):
    torch.manual_seed(1)
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in methods))
    rules = [Rule(str(index), (method,)) for index, method in enumerate(methods)]
    compress_model(model, rules, TARGETS)
    header, tensors = unpack_file(serialize(model), "x")
    return Nest(header, tensors, {str(i): (10, 10) for i in range(len(methods))})


def test_files_without_levels_are_offered_as_they_are(tmp_path):
    path = str(tmp_path / "m")
    save(trained("nf4", "zeros", "none"), path)
    assert [cut.methods for cut in levels(path)] == [{}]
    assert "no layer's stored form" in CliRunner().invoke(show_command, [path, "--levels"]).output


def test_show_lists_the_models_inside(file):
    output = CliRunner().invoke(show_command, [file, "--levels"]).output.splitlines()
    offered = levels(file)
    assert output[0].startswith(f"{len(offered)} models, ")
    assert output[2].split()[:3] == [str(offered[0].bytes), "1.00x", "exact"]
    assert output[-2].split()[0] == str(offered[-1].bytes)


def test_adapters_on_a_cut_base_are_as_they_were(tmp_path):
    path = str(tmp_path / "m")
    model = trained("svd", "residual", "lora")
    save(model, path)
    offered = levels(path)
    small = load(path, network(3), max_bytes=offered[-1].bytes)
    for name in "68":
        for factor in ("lora_A", "lora_B"):
            ours, its = (getattr(m[int(name)], factor)["default"].weight for m in (model, small))
            assert torch.equal(ours, its)


def test_wrong_sizes_and_files_end_with_two(tmp_path):
    for max_bytes, name in (("many", "m"), ("1MB", "absent")):
        args = [str(tmp_path / name), "--max-bytes", max_bytes, "--output", str(tmp_path / "o")]
        done = CliRunner().invoke(cut_command, args)
        assert done.exit_code == 2
        assert len(done.output.splitlines()) == 1

"""Packed weights in ONNX files: the same outputs, in as many bytes."""

import json

import pytest
import torch
from networks import ADAPTERS, METHODS, Calibration, variants
from torch import nn

from compression.export import EXPORTERS, Source
from compression.export.forms import form_of
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods.base import CompressedWeight
from compression.methods.chain import chain
from compression.methods.low_rank.factors import Factors
from compression.methods.quantize.codebook import Codebook
from compression.methods.quantize.uniform import UniformGrid
from compression.model import Rule, compress_model, trainable
from compression.rules import layers_of

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.timeout(240)  # tracing takes seconds, on a busy machine a minute

# Without those that calibration chooses the codes of: their grid is rtn's.
FITTING = [m for m in variants(METHODS) if isinstance(m, UniformGrid | Codebook) and not m.needs]
NEAR = 1e-5  # of the largest output: two sums of float32 in another order


def built(name, **settings):
    return METHODS.build(name, settings)


# A layer of the network each; what is said of it in the file.
LINEAR = {
    built("rtn", bits=2, group_size=32): "MatMulNBits 2 bits",
    built("rtn", bits=3): "unpacked at load 3 bits",
    built("rtn", bits=4): "MatMulNBits 4 bits",
    built("rtn", bits=4, mode="asymmetric", group_size=16): "MatMulNBits 4 bits",
    built("rtn", bits=4, group_size=48): "MatMulNBits 4 bits",
    built("rtn", bits=4, group_size=24): "DequantizeLinear 4 bits",
    built("rtn", bits=5, mode="asymmetric", group_size=7): "unpacked at load 5 bits",
    built("rtn", bits=8, mode="asymmetric"): "MatMulNBits 8 bits",
    built("awq", bits=4): "MatMulNBits 4 bits, by columns",
    built("gptq", bits=4): "MatMulNBits 4 bits",
    built("hqq", bits=4, group_size=16): "MatMulNBits 4 bits",
    built("int1"): "unpacked at load 1 bits",
    built("int1", passes=2): "unpacked at load 1 bits + unpacked at load 1 bits",
    built("ternary", group_size=32): "MatMulNBits 2 bits",
    built("nf4"): "looked up at load 4 bits",
    built("cast"): "float16",
    built("cast", dtype="bfloat16"): "bfloat16",
    built("svd", rank=6): "float32 x float32",
    chain([built("svd", rank=20), built("rtn", bits=8)]): "MatMulNBits 8 bits x MatMulNBits 8 bits",
    built("magnitude"): "dense",
}
CONV = {
    built("rtn", bits=4, mode="asymmetric"): "DequantizeLinear 4 bits",
    built("rtn", bits=8, group_size=10): "DequantizeLinear 8 bits",
    built("rtn", bits=2): "unpacked at load 2 bits",
    built("hqq", bits=4, group_size=32): "unpacked at load 4 bits",
    built("svd", rank=3): "float32 x float32",
    chain([built("svd", rank=3), built("rtn", bits=4)]): (
        "DequantizeLinear 4 bits x DequantizeLinear 4 bits"
    ),
}
WIDTH = 45  # no multiple of any block


class Many(nn.Module):
    """Layers of one shape one after the other, of each kind."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(24, 12)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.conv = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in CONV)
        self.into = nn.Linear(12 * 4, WIDTH)
        self.linear = nn.ModuleList(
            nn.Linear(WIDTH, WIDTH, bias=i % 2 == 0) for i in range(len(LINEAR))
        )
        self.adapted = nn.Linear(WIDTH, WIDTH)
        self.dora = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens):
        x = self.grouped(self.table(tokens).mT.unflatten(-1, (2, 2)))
        for layer in self.conv:
            x = x + layer(x).relu()
        x = self.into(x.flatten(1))
        for number, layer in enumerate([*self.linear, self.adapted, self.dora]):
            # Matrices, and batches of them: PyTorch's exporter writes these in another way.
            x = x + (layer(x[:, None])[:, 0] if number % 2 else layer(x)).tanh()
        return x


RULES = [
    Rule("table", (built("rtn", bits=8),)),
    Rule("grouped", (built("svd", rank=2),)),
    Rule("into", (built("rtn", bits=4),)),
    Rule("adapted", (built("rtn", bits=4),), adapter=ADAPTERS.build("lora"), rank=2),
    Rule("dora", (built("rtn", bits=4),), adapter=ADAPTERS.build("dora"), rank=2),
    *(Rule(f"conv.{i}", (method,)) for i, method in enumerate(CONV)),
    *(Rule(f"linear.{i}", (method,)) for i, method in enumerate(LINEAR)),
]


def tokens(count=5):
    return torch.randint(24, (count, 4), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    examples = tokens(32)
    seen = Calibration(
        count=32,
        batch=lambda rows: examples[rows],
        forward=lambda model, batch: model(batch),
        loss=lambda model, batch: model(batch).square().mean(),
    )
    made = compress_model(Many().eval(), RULES, ["*", "table"], calibration=seen)
    with torch.no_grad():
        for parameter in trainable(made):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    return EXPORTERS.build("onnx").write(Source(model, tokens(), b""), tmp_path_factory.mktemp("x"))


def test_the_outputs_are_ours_for_any_number_of_examples(model, written):
    run = EXPORTERS.build("onnx").opened(written.path, Source(model, tokens(), b""))
    for count in (1, 5, 17):
        ours, theirs = model(tokens(count)), run(tokens(count))
        assert (ours - theirs).abs().max() <= NEAR * ours.abs().max()


def test_each_layer_is_held_as_the_file_says(written):
    said = dict(written.layers)
    assert said.pop("table") == "DequantizeLinear 8 bits"
    assert said.pop("grouped") == "float32 x float32"
    assert said.pop("into") == said.pop("adapted") == "MatMulNBits 4 bits"
    assert said.pop("dora") == "DequantizeLinear 4 bits"  # its norms need the matrix itself
    assert list(said.values()) == [*CONV.values(), *LINEAR.values()]
    metadata = {p.key: p.value for p in onnx.load(written.path).metadata_props}
    assert json.loads(metadata["paretune"]) == written.layers


def test_each_layer_takes_as_many_bytes_as_in_our_file(model, written):
    """But for zeros of padded rows and blocks; a ternary code takes 2 bits here, 1.6 there."""
    graph, held = onnx.load(written.path).graph, {}
    for tensor in graph.initializer:
        layer = tensor.name.removeprefix("model.").partition(".weight.")[0]
        held[layer.removesuffix(".base_layer")] = held.get(layer, 0) + len(tensor.raw_data)
    for name, layer in layers_of(model).items():
        if written.layers[name] != "dense":
            ours = packed_of(layer).stored_bytes()
            assert held[name] <= 1.45 * ours + 160, name
            assert held[name] < bare(layer).weight.nbytes, name


def test_what_a_layer_would_be_held_as_is_known_without_a_graph(model, written):
    foretold = EXPORTERS.build("onnx").layers(model)
    differing = {name for name in foretold if foretold[name] != written.layers[name]}
    assert differing == {"dora"}


def test_the_file_is_one_that_onnx_itself_finds_valid(written):
    onnx.checker.check_model(onnx.load(written.path))


@pytest.mark.parametrize("method", FITTING, ids=str)
@pytest.mark.parametrize("shape", [(6, 45), (4, 3, 3, 3)])
def test_every_grid_and_table_has_a_form(method, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = method.compress(weight)
    matrix = form_of(packed).dense()
    assert torch.allclose(matrix, packed.dense().flatten(1), rtol=0, atol=1e-6)


class Odd(Factors):
    """Reads its factors in a way of its own."""

    def decode(self, tensors, shape):
        return super().decode(tensors, shape).flip(0)


def test_a_method_that_reads_its_tensors_in_its_own_way_has_no_form():
    weight = torch.randn(6, 8)
    svd = built("svd", rank=2).compress(weight)
    odd = object.__new__(type("Odd", (Odd, type(svd.method)), {}))
    odd.__dict__.update(svd.method.__dict__)
    assert form_of(svd) is not None
    assert form_of(CompressedWeight(odd, svd.shape, svd.state())) is None

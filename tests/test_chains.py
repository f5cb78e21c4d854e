"""Methods one after another: what each leaves in floating point the next one stores."""

import copy
import itertools
import json
import math
import pickle

import pytest
import torch
from networks import calibration, inputs, layer_stats, network, pattern_for
from torch import nn

from compression import container
from compression.adapters import ADAPTERS
from compression.artifact import ArtifactError, deserialize, serialize
from compression.inits import INITS
from compression.layers import packed_of
from compression.methods import METHODS, Chain, Method, chain
from compression.methods.base import CompressedWeight
from compression.methods.chain import method_from_json, method_to_json
from compression.model import Rule, compress_model, target_layers
from compression.registry import InvalidSetting
from compression.rules import dense_needs
from compression.size import measure

BUILT = [METHODS.build(name) for name in METHODS]
FIRST = [m for m in BUILT if m.may_go_first and not m.structural]
NEXT = [m for m in BUILT if not m.needs and not m.any_shape and "linear" in m.kinds]
NEXT = [m for m in NEXT if type(m).plan is Method.plan and not m.base_is_gone]
PAIRS = [*itertools.product(FIRST, [METHODS.build("rtn"), METHODS.build("int1")])]
PAIRS += [(METHODS.build("svd"), then) for then in NEXT]


def fitting(first):
    return (5, 2, 3, 3) if "linear" not in first.kinds else (12, 20)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("first", "then"), dict.fromkeys(PAIRS), ids=str)
def test_contract(first, then):
    shape = fitting(first)
    weight, stats = normal(*shape), layer_stats(shape)
    packed = chain([first, then]).compress(weight, stats)
    layout = packed.method.layout(shape)
    assert packed.stored_bytes() == sum(slot.nbytes for slot in layout.values())
    assert packed.nominal_bits() <= 8 * packed.stored_bytes()

    # By hand: the first method, its floating-point slots through the second.
    alone = first.compress(weight, stats)
    tensors, stored = alone.state(), alone.stored_bytes()
    for slot, matrix in alone.method.inner(shape).items():
        values = tensors[slot].float().flatten()
        filled = torch.zeros(math.prod(matrix))
        filled[: len(values)] = values
        inner = then.compress(filled.view(matrix))
        stored += inner.stored_bytes() - tensors[slot].nbytes
        tensors[slot] = inner.dense().flatten()[: len(values)].reshape(tensors[slot].shape)
    assert packed.stored_bytes() == stored
    assert torch.equal(packed.dense(), alone.method.decode(tensors, shape))
    x = normal(3, weight[0].numel(), seed=1)
    torch.testing.assert_close(
        packed.linear(x), x @ packed.dense().flatten(1).T, atol=1e-4, rtol=1e-4
    )

    again = method_from_json(json.loads(json.dumps(method_to_json(packed.method))))
    assert again == packed.method == pickle.loads(pickle.dumps(packed.method))
    assert hash(again) == hash(packed.method)
    assert torch.equal(CompressedWeight(again, shape, packed.state()).dense(), packed.dense())


def test_three_in_a_row():
    method = chain([METHODS.build("svd", {"rank": 6}), METHODS.build("n_m"), METHODS.build("rtn")])
    assert method.name == "svd+n_m+rtn"
    weight = normal(16, 24)
    packed = method.compress(weight)
    dense = METHODS.build("svd", {"rank": 6, "factor_dtype": "float32"}).compress(weight).dense()
    assert torch.linalg.matrix_rank(packed.dense()) <= 6
    assert (packed.dense() - dense).norm() < dense.norm()
    again = method_from_json(method_to_json(packed.method))
    assert torch.equal(CompressedWeight(again, (16, 24), packed.state()).dense(), packed.dense())


@pytest.mark.parametrize("first", FIRST, ids=str)
def test_the_file_is_the_formula_and_loads_again(first):
    methods = (first, METHODS.build("rtn"))
    made = Rule(pattern=pattern_for(first.name), methods=methods)
    model = compress_model(network(), [made], ["*"], calibration=calibration())
    data = serialize(model)
    assert len(data) == measure(model, ["*"]).file_bytes
    loaded = deserialize(data, network(seed=3))
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert loaded.compression.layers == model.compression.layers
    assert torch.equal(copy.deepcopy(model)(inputs()), model(inputs()))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rtn", "int1"], "rtn: leaves nothing in floating point for int1"),
        (["svd", "drop_base"], "drop_base: stores nothing, and svd leaves something to store"),
        (["svd", "gptq"], r"gptq: needs calibration \(inputs\) and can only stand first"),
        (["svd", "cast"], "cast: no use in a chain"),
        (["svd", "cp"], "cp: takes no matrix"),
        (["n_m", "lamp"], "lamp: looks at all layers together and can only stand first, or after"),
        (["svd", "svd_cascade"], "svd_cascade: looks at all layers together"),
        (["svd", "drop_blocks"], "drop_blocks: looks at all layers together"),
    ],
)
def test_methods_that_do_not_fit_are_refused(names, message):
    with pytest.raises(InvalidSetting, match=message):
        chain([METHODS.build(name) for name in names])


def test_one_method_is_itself():
    assert chain([METHODS.build("rtn")]) == METHODS.build("rtn")
    assert isinstance(chain([METHODS.build("svd"), METHODS.build("rtn")]), Chain)


def test_what_a_structural_method_leaves_is_calibrated_anew():
    methods = (METHODS.build("channels", {"keep_ratio": 0.5}), METHODS.build("gptq"))
    made = Rule(methods=methods, init=INITS.build("eora"), adapter=ADAPTERS.build("lora"), rank=2)
    model = compress_model(network(), [made], ["*"], calibration=calibration())
    assert packed_of(model[3]).shape[1] < 6
    assert all(entry.method.name == "gptq" for entry in model.compression.layers.values())
    loaded = deserialize(serialize(model), network(seed=3))
    assert torch.equal(loaded(inputs()), model(inputs()))


def compressed(*methods, model=None):
    made = Rule(methods=tuple(METHODS.build(name, args) for name, args in methods))
    return compress_model(model or network(), [made], ["*"], calibration=calibration())


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + self.inner(x).relu()


def blocks(width):
    return nn.Sequential(*(Block(width) for _ in range(3)))


def nonzeros(model):
    return [int((layer.weight != 0).sum()) for layer in target_layers(model, ["*"]).values()]


def shares(model):
    layers = target_layers(model, ["*"]).values()
    return [n / m.weight.numel() for n, m in zip(nonzeros(model), layers, strict=True)]


@pytest.mark.parametrize("name", ["lamp", "global_magnitude", "dlp"])
def test_a_plan_over_all_layers_holds_in_a_chain(name):
    first = (name, {"sparsity": 0.6})
    alone, chained = compressed(first), compressed(first, ("rtn", {"bits": 8}))
    entries = chained.compression.layers.values()
    assert [e.method.first for e in entries] == [
        e.method for e in alone.compression.layers.values()
    ]
    assert len(set(shares(alone))) > 1
    assert all(n <= m for n, m in zip(nonzeros(chained), nonzeros(alone), strict=True))


@pytest.mark.parametrize("name", ["lamp", "global_magnitude", "dlp"])
def test_a_plan_over_all_layers_is_made_of_what_a_structural_method_leaves(name):
    cut, pruned = ("channels", {"keep_ratio": 0.5}), (name, {"sparsity": 0.6})
    chained = compressed(cut, pruned)
    assert len(set(shares(chained))) > 1
    total = sum(layer.weight.numel() for layer in target_layers(chained, ["*"]).values())
    assert sum(nonzeros(chained)) == pytest.approx(0.4 * total, abs=5)
    loaded = deserialize(serialize(chained), network(seed=3))
    assert torch.equal(loaded(inputs()), chained(inputs()))


def test_structural_methods_follow_each_other():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(384, 64),
        blocks(64),
        nn.Linear(64, 7),
    ).eval()
    done = compressed(
        ("channels", {"keep_ratio": 0.5}), ("drop_blocks", {"count": 1}), ("rtn", {}), model=model
    )
    kinds = [edit.name for edit in done.compression.edits]
    assert kinds[-1] == "bypass"
    assert "bypass" not in kinds[:-1]
    assert len(kinds) > 1
    assert len(done.compression.layers) == 5
    assert {entry.method.name for entry in done.compression.layers.values()} == {"rtn"}


def test_only_the_first_edits_look_at_the_dense_model():
    dropped, gptq = METHODS.build("drop_blocks"), METHODS.build("gptq")
    assert dense_needs([Rule(methods=(dropped, gptq))]) == dropped.needs
    assert dense_needs([Rule(methods=(dropped,)), Rule(methods=(gptq,))]) == dropped.needs
    assert dense_needs([Rule(methods=(gptq,))]) == {"inputs"}
    assert Rule(methods=(dropped, gptq)).needs == dropped.needs | {"inputs"}


def test_what_follows_a_structural_method_refuses_layers_too():
    model = nn.Sequential(nn.Embedding(5, 8), blocks(8))
    layers = target_layers(model, ["0", "*"])
    made = chain([METHODS.build("drop_blocks"), METHODS.build("gptq")])
    assert list(made.refusals(model, layers)) == ["gptq cannot take '0', a layer of type Embedding"]
    assert made.kinds == METHODS.build("gptq").kinds
    after = chain([METHODS.build("channels"), METHODS.build("cp")])  # a layer is no slot
    assert after.kinds == {"conv2d"}


@pytest.mark.parametrize("then", [{"left": ["rtn"]}, {}])
def test_a_foreign_file_that_leaves_a_slot_without_a_method_is_refused(then):
    model = nn.Sequential(nn.Linear(9, 5))
    made = Rule(methods=(METHODS.build("svd", {"rank": 2}), METHODS.build("rtn")))
    data = serialize(compress_model(model, [made], ["*"]))
    header, tensors = container.unpack_file(data, "")
    (entry,) = header.compression.layers.values()
    object.__setattr__(entry.method, "then", {k: METHODS.build(*m) for k, m in then.items()})
    data = container.pack_file(tensors, header.compression, {})
    with pytest.raises(ArtifactError, match="svd: no(thing follows| method for its slot 'right')"):
        deserialize(data, nn.Sequential(nn.Linear(9, 5)))

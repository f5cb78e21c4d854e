"""Every adapter where other code meets its layers: blocks, precisions, copies, lost bases."""

import copy

import pytest
import torch
from networks import adapted, generator, inputs, rule, taken
from test_adapters import classified, learn
from torch import nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5LayerFF

from compression.adapters import ADAPTERS
from compression.calibration import Calibration
from compression.kinds import bare
from compression.layers import packed_of
from compression.methods import METHODS
from compression.model import adapter_tensors, as_saved, compress_model, target_layers, trainable
from compression.precision import DTYPES
from trainables.optimizers import OPTIMIZERS

NAMES = [name for name in ADAPTERS if name != "none"]
HALF = ("bfloat16", "float16")


def under(name, model, examples, method="rtn", pattern="*"):
    """A model of Linear layers under an adapter at its defaults, on a method that it takes."""
    adapter = ADAPTERS.build(name)
    if method != "drop_base":
        method = taken(adapter, method, target_layers(model, [pattern]))
    made = rule(method, "zeros", adapter, 4 if adapter.ranked else 0, pattern=pattern)
    x = examples.detach()
    data = Calibration(
        count=len(x),
        batch=lambda rows: x[rows],
        forward=lambda model, batch: model(batch),
        loss=lambda model, batch: model(batch).square().mean(),
    )
    return compress_model(model, [made], [pattern], generator=generator(), calibration=data)


def aims_at(x, target):
    """The squared distance of the outputs from a target, at full precision."""
    return lambda model: (model(x).float() - target).square().mean()


def check_learned(model, before, x):
    """Finite, and somewhere else; what was trained has gradients."""
    after = model(x).detach()
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    grads = [parameter.grad for parameter in trainable(model)]
    assert any(grad is not None and grad.any() for grad in grads)
    assert all(torch.isfinite(parameter).all() for parameter in trainable(model))


# --- a block that looks at its layers ----------------------------------------------------------


def feed_forward():
    """T5's: norm, wi, wo, residual. It reads ``wo.weight.dtype``."""
    torch.manual_seed(0)
    return T5LayerFF(T5Config(d_model=32, d_ff=64, dropout_rate=0.0)).eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_reads_its_layers_dtypes(name):
    x = torch.randn(4, 6, 32, generator=generator())
    model = under(name, feed_forward(), x)
    before = model(x).detach()
    learn(model, None, 3, aims_at(x, torch.zeros_like(x)))
    check_learned(model, before, x)
    wo = model.DenseReluDense.wo
    assert torch.equal(wo.weight, bare(wo).weight)


# --- precisions --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast(name):
    model = adapted(ADAPTERS.build(name))
    exact = model(inputs()).detach()

    def mixed(work):
        with torch.autocast("cpu", torch.bfloat16):  # one forward each: it keeps its casts within
            return work(model)

    before = mixed(lambda model: model(inputs()).detach())
    assert (before.float() - exact).norm() < 0.05 * exact.norm()
    learn(model, None, 2, lambda model: mixed(classified))
    check_learned(model, before, inputs())
    after = mixed(lambda model: model(inputs()).detach())
    assert not torch.equal(after, before)
    assert {p.dtype for p in trainable(model)} == {torch.float32}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "ln_tuning"])
def test_on_a_base_in_half_precision(name, dtype):
    """What an adapter trains of its own is float32; norms (ln_tuning) are the model's."""
    torch.manual_seed(0)
    x = torch.randn(8, 32).to(DTYPES[dtype])
    model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16)).to(DTYPES[dtype]).eval()
    weight = model[1].weight.detach().clone()
    model = under(name, model, x, "none", "1")
    assert bare(model[1]).weight.dtype == DTYPES[dtype]
    if (packed := packed_of(model[1])) is not None:  # an adapter that takes one method only
        weight = packed.dense().to(DTYPES[dtype])
    assert torch.equal(bare(model[1]).weight, weight)
    [(adapter, entries)] = model.compression.adapted().items()
    live = adapter.parameters(model, entries).values()
    assert {t.dtype for t in live if t.is_floating_point()} <= {torch.float32}
    before = model(x).detach()
    assert before.dtype == DTYPES[dtype]
    learn(model, None, 2, aims_at(x, torch.zeros(8, 16)))
    check_learned(model, before, x)


# --- copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_a_model_of_its_own(name):
    model = adapted(ADAPTERS.build(name))
    other = copy.deepcopy(model)
    start = model(inputs()).detach()
    assert torch.equal(other(inputs()), start)
    mine, theirs = adapter_tensors(model), adapter_tensors(other)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    owned = {t.data_ptr() for t in trainable(model)}
    assert not owned & {t.data_ptr() for t in trainable(other)}
    learn(other, None, 2)
    check_learned(other, start, inputs())
    assert torch.equal(model(inputs()), start)
    with as_saved(other):
        other(inputs())


# --- bases that are gone -----------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_over_nothing_it_is_refused_or_learns_a_function_of_the_inputs(name, bias):
    torch.manual_seed(0)
    adapter, x = ADAPTERS.build(name), torch.randn(16, 32)
    model = nn.Sequential(nn.Linear(32, 16, bias=bias)).eval()
    gone, rank = METHODS.build("drop_base"), 4 if adapter.ranked else 0
    layers = target_layers(model, ["*"])
    if refused := [*adapter.refusals(layers, rank, [gone]), *adapter.model_refusals(model)]:
        assert any("drop_base" in text or "no norms" in text for text in refused)
        return
    assert not adapter.of_base
    model = under(name, model, x, "drop_base")
    before = model(x).detach()
    target = x @ torch.randn(32, 16)
    learn(model, None, 6, aims_at(x, target))
    check_learned(model, before, x)
    assert model(x).std(0).min() > 0  # whatever the bias is
    if bias:
        assert bare(model[0]).bias.grad.any()


# --- factors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if OPTIMIZERS[o].of_pairs])
@pytest.mark.parametrize("name", [n for n in NAMES if ADAPTERS[n].factored])
def test_optimizers_of_factors_move_them(name, optimizer):
    model = adapted(ADAPTERS.build(name), rank=4, calibrated=True)
    [(adapter, entries)] = model.compression.adapted().items()
    pairs = adapter.pairs(model, entries)
    moved = {id(parameter): parameter for parameter in trainable(model)}
    assert {id(p) for pair in pairs for p in (pair.A, pair.B)} <= moved.keys()
    assert len({id(p) for pair in pairs for p in (pair.A, pair.B)}) == 2 * len(pairs) > 0
    before = model(inputs()).detach()
    made = OPTIMIZERS.build(optimizer).build(trainable(model), 1e-2, pairs)
    learn(model, None, 3, classified, made)
    check_learned(model, before, inputs())


@pytest.mark.parametrize(
    "name", [n for n in NAMES if ADAPTERS[n].factored and ADAPTERS[n].additive]
)
def test_factors_make_the_delta_of_what_is_additive(name):
    model = learn(adapted(ADAPTERS.build(name), alpha=6.0), None, 2)
    [(adapter, entries)] = model.compression.adapted().items()
    for layer in entries:
        pairs = adapter.pairs(model, [layer])
        found = sum(p.scale * p.B.flatten(1) @ p.A.flatten(1) for p in pairs)
        torch.testing.assert_close(adapter.delta(model, layer), found)


@pytest.mark.parametrize("name", [n for n in NAMES if ADAPTERS[n].additive])
def test_an_additive_adapter_adds_its_delta(name):
    x = torch.randn(8, 32, generator=generator())
    torch.manual_seed(0)
    model = learn(under(name, nn.Sequential(nn.Linear(32, 16)), x), None, 2, aims_at(x, 1.0))
    [(adapter, _)] = model.compression.adapted().items()
    with torch.no_grad():
        expected = bare(model[0])(x) + x @ adapter.delta(model, "0").T
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)

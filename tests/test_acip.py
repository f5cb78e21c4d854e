"""ACIP: what a score is for, where it comes from, and that any size is a cut."""

import pytest
import torch
from networks import generator
from torch import nn

from compression import compress_model, deserialize, finalize, load, save, serialize
from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.container import unpack_file
from compression.methods import METHODS
from compression.model import Rule, trainable
from compression.nested import Nest, levels
from compression.registry import InvalidSetting

STEPS = 60


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapted(model, rank=2, **knobs):
    method, adapter = METHODS.build("acip", {"rank": 8}), ADAPTERS.build("acip", knobs)
    rules = [Rule(methods=(method,), adapter=adapter, rank=rank)]
    return compress_model(model, rules, ["*"], generator=generator())


def two_layers():
    """The loss below asks only for what the first layer's weakest direction puts out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.linspace(2, 0.5, 8)))
        model[1].weight.copy_(torch.eye(8))
    return model


def train(model, outputs=slice(7, 8), steps=STEPS):
    """The error of some outputs against those of the dense model."""
    adapter, layers = next(iter(model.compression.adapted().items()))
    acting = adapter.acting(model, layers, 0)
    optimizer = torch.optim.SGD(trainable(model), lr=1e-3)
    dense = two_layers()
    for step in range(steps):
        moment, x = Moment(step, steps, 1e-3), normal(64, 8, seed=step)
        acting.before_step(moment)
        loss = (model(x) - dense(x))[:, outputs].square().mean()
        optimizer.zero_grad()
        loss.backward()
        acting.after_backward(moment)
        optimizer.step()
        acting.after_step(moment)
    return finalize(model)


def nest_of(model):
    header, tensors = unpack_file(serialize(model), "x")
    return Nest(header, tensors, dict.fromkeys(header.compression.layers, (8, 8)))


def test_all_directions_are_the_weight():
    weight = normal(6, 9)
    packed = METHODS.build("acip", {"rank": 6}).compress(weight)
    torch.testing.assert_close(packed.dense(), weight, rtol=0, atol=1e-5)


def test_untrained_it_is_svd_with_four_bytes_a_direction():
    weight = normal(6, 9)
    acip, svd = (METHODS.build(name, {"rank": 4}).compress(weight) for name in ("acip", "svd"))
    assert torch.equal(acip.dense(), svd.dense())
    assert acip.stored_bytes() == svd.stored_bytes() + 4 * 4
    for level in acip.method.levels((6, 9)):
        tensors = acip.method.at_level(acip.state(), (6, 9), level)
        alone = METHODS.build("svd", {"rank": level.rank}).compress(weight)
        assert torch.equal(level.decode(tensors, (6, 9)), alone.dense())


def test_directions_stay_by_their_scores_and_not_by_their_place():
    packed = METHODS.build("acip", {"rank": 4}).compress(normal(6, 9))
    state = packed.state()
    scores = torch.tensor([0.1, 3.0, 2.0, 3.5])
    state["scores"] = scores
    for level, kept in zip(packed.method.levels((6, 9)), ([1, 2, 3], [1, 3], [3]), strict=True):
        found = packed.method.at_level(state, (6, 9), level)
        assert torch.equal(found["scores"], scores[kept])
        assert torch.equal(found["left"], state["left"][:, kept])
        assert torch.equal(found["right"], state["right"][kept])


def test_layers_go_down_in_the_order_of_all_scores_together():
    model = train(adapted(two_layers()))
    nest = nest_of(model)
    for state in nest.path():
        _, tensors = nest.cut(state)
        kept = [tensors[f"{name}.scores"] for name in nest.ladders]
        whole = [nest.tensors[f"{name}.scores"] for name in nest.ladders]
        gone = [a[~torch.isin(a, b)] for a, b in zip(whole, kept, strict=True)]
        for layer in range(2):
            free = kept[layer] if len(kept[layer]) > 1 else kept[layer][:0]  # one always stays
            if len(free) and len(torch.cat(gone)):
                assert torch.cat(gone).max() <= free.min() + 1e-6


def test_what_the_loss_asks_for_stays_however_weak_it_is():
    model = train(adapted(two_layers()))
    nest = nest_of(model)
    x, wanted = normal(32, 8, seed=99), two_layers()(normal(32, 8, seed=99))[:, 7:]
    *_, (state, cut) = nest.cuts()
    assert set(cut.methods) == {"0", "1"}
    small = deserialize(serialize(model), two_layers(), max_bytes=cut.bytes)
    assert (small(x)[:, 7:] - wanted).square().mean() < 0.1 * wanted.square().mean()
    # The singular values alone would have kept the strongest, which the loss never sees.
    untrained = deserialize(serialize(adapted(two_layers())), two_layers(), max_bytes=cut.bytes)
    assert (untrained(x)[:, 7:] - wanted).square().mean() > 0.5 * wanted.square().mean()


def test_a_step_sees_the_open_directions_and_what_ships_has_all():
    model = adapted(two_layers())
    (adapter, layers), x = next(iter(model.compression.adapted().items())), normal(4, 8)
    before = model(x)
    acting = adapter.acting(model, layers, 0)
    model[0].p[:7] = -0.5
    acting.before_step(Moment(0, 1, 0.1))
    packed = model[0].base_layer.packed.state()
    weight = packed["left"][:, 7:] @ packed["right"][7:]
    torch.testing.assert_close(model[0](x), x @ weight.T)
    acting.after_step(Moment(0, 1, 0.1))
    assert torch.equal(model(x), before)


def test_the_mask_passes_its_gradient_straight_on():
    model = adapted(two_layers())
    adapter, layers = next(iter(model.compression.adapted().items()))
    acting = adapter.acting(model, layers, 0)
    acting.before_step(Moment(0, 1, 0.1))
    x, g = normal(5, 8), normal(5, 8, seed=1)
    (model[0](x) * g).sum().backward()
    packed = model[0].base_layer.packed.state()
    expected = ((x @ packed["right"].T) * (g @ packed["left"])).sum(0)
    torch.testing.assert_close(model[0].gradient, expected)


def test_pulling_ends_at_the_share_that_stays_open():
    for least in (0.2, 0.6):
        model = train(adapted(two_layers(), least=least, end_weight=100.0), slice(0, 8))
        opened = sum(int((model[i].p > 0).sum()) for i in range(2))
        assert opened <= least * 16
        # The step that goes below may close several; all but the last were above.
        assert opened > 0


def test_the_file_holds_what_was_learned_and_any_size_of_it_loads(tmp_path):
    model = train(adapted(two_layers()))
    path, x = str(tmp_path / "m"), normal(3, 8)
    save(model, path)
    assert torch.equal(load(path, two_layers())(x), model(x))
    offered = levels(path)
    assert len(offered) > 8
    for cut in offered[::3]:
        assert len(serialize(load(path, two_layers(), max_bytes=cut.bytes))) <= cut.bytes


def test_other_methods_are_refused_by_name():
    rules = [Rule(methods=(METHODS.build("svd"),), adapter=ADAPTERS.build("acip"), rank=2)]
    with pytest.raises(InvalidSetting, match="svd stores no scores: use acip"):
        compress_model(two_layers(), rules, ["*"])

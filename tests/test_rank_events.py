"""What all adapters promise that move ranks while they are trained."""

import pytest
import torch
from networks import adapted, inputs
from rank_training import (
    GATED,
    acting_of,
    live,
    train,
    trained,
)

from compression.adapters import ADAPTERS
from compression.adapters.ranks.allocation import Allocating
from compression.model import as_saved
from compression.registry import InvalidSetting
from compression.stored import shipped

# Those whose ranks end at a sum that is asked for.
BUDGETED = ["dora_dynamic", "incre_lora", "elalora", "alora"]


@pytest.mark.parametrize("steps", [3, 17, 60])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("name", BUDGETED)
def test_the_ranks_end_at_the_sum_that_was_asked_for(name, rank, steps):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter, rank=rank)
    acting, layers = acting_of(model, adapter)
    seen = []
    train(
        model,
        acting,
        steps,
        watch=lambda moment: seen.append((acting.settled(moment), live(layers))),
    )
    budget = rank * len(layers)
    assert sum(live(layers).values()) == budget
    assert seen[-1][0]
    final = [ranks for settled, ranks in seen if settled]
    assert all(ranks == final[0] for ranks in final)
    with as_saved(model):
        assert sum(found.rank for found in shipped(model).values()) <= budget


@pytest.mark.parametrize("name", ["elalora", "alora"])
def test_exchanges_keep_the_sum_at_every_step_and_move_ranks(name):
    adapter = ADAPTERS.build(name, {"swap": 0.4})
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    sums, spreads = set(), set()

    def watch(moment):
        sums.add(sum(live(layers).values()))
        spreads.add(tuple(live(layers).values()))

    train(model, acting, 30, watch=watch)
    assert sums == {4 * len(layers)}
    assert len(spreads) > 1


@pytest.mark.parametrize(("name", "order"), [("dora_dynamic", -1), ("incre_lora", 1)])
def test_dynamic_dora_shrinks_and_incre_lora_grows(name, order):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    sums = [sum(live(layers).values())]
    train(model, acting, 30, watch=lambda m: sums.append(sum(live(layers).values())))
    assert sums == sorted(sums, key=lambda total: order * total)
    assert sums[0] != sums[-1]


@pytest.mark.parametrize("name", ["incre_lora", "elalora", "alora"])
def test_growing_leaves_the_output_unchanged(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    train(model, acting, 2, total=100)
    for layer in layers.values():
        layer.live[0] = 0
    before = model(inputs()).detach()
    acting.grow(list(layers), 2 * len(layers), gated=adapter.trained_gate)
    torch.testing.assert_close(model(inputs()), before)


def test_the_lowest_scores_go_and_each_layer_keeps_its_least():
    model, acting, layers = trained(
        "dora_dynamic", steps=2, warmup=0.9, until=0.9, start_factor=2.0
    )
    assert isinstance(acting, Allocating)
    for name, layer in layers.items():
        layer.live.fill_(1)
        acting.ages[name].fill_(10_000)
        acting.means[name].copy_(torch.rand(layer.most))
    first, *others = layers
    acting.means[first].mul_(1e-6)
    total = sum(layer.most for layer in layers.values())
    acting.keep(total - layers[first].most, 2)
    assert live(layers)[first] == 2
    assert sum(live(layers).values()) == total - layers[first].most
    kept = torch.cat([acting.means[n][layers[n].live == 1] for n in others])
    gone = torch.cat([acting.means[n][layers[n].live == 0] for n in others])
    assert gone.max() <= kept.min()


@pytest.mark.parametrize("name", [*GATED, "prilora", "gora"])
def test_training_goes_on_from_a_state_as_if_undisturbed(name):
    adapter = ADAPTERS.build(name)
    whole, parts = adapted(adapter), adapted(adapter)
    train(whole, acting_of(whole, adapter)[0], 16, total=16)
    acting = acting_of(parts, adapter)[0]
    optimizer = train(parts, acting, 7, total=16)
    state = acting.state()
    again = acting_of(parts, adapter)[0]
    again.restore(state)
    train(parts, again, 9, start=7, optimizer=optimizer, total=16)
    for key, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[key], value), key


def test_events_come_once_in_order_at_their_shares():
    adapter = ADAPTERS.build("elalora", {"warmup": 0.2, "until": 0.8, "events": 4})
    assert adapter.shares() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    model = adapted(adapter)
    acting, _ = acting_of(model, adapter)
    done = []
    train(model, acting, 10, watch=lambda moment: done.append(acting.done))
    assert done == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    with pytest.raises(InvalidSetting, match="before warmup"):
        ADAPTERS.build("elalora", {"warmup": 0.9})

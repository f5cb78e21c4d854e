"""What is said of ranks that move: until when, whether bytes change, what parameters mean."""

import itertools
from dataclasses import replace

import pytest
import torch
from networks import adapted
from rank_training import GATED, LR, acting_of, train

from compression.acting import Moment
from compression.adapters import ADAPTERS
from compression.adapters.ranks.allocation import Scheduled
from compression.model import as_saved
from compression.stored import shipped

REAL = [name for name in ADAPTERS if name != "none"]
MOVING = [name for name in GATED if issubclass(ADAPTERS[name], Scheduled)]


def ranks_that_ship(model):
    with as_saved(model):
        return {name: found.rank for name, found in shipped(model).items()}


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("name", REAL)
def test_it_is_settled_where_it_says_and_ranks_stay_from_there_on(name, steps):
    adapter = ADAPTERS.build(name)
    assert 0 <= adapter.settled_at <= 1
    model = adapted(adapter)
    acting, _ = acting_of(model, adapter)
    if acting is None:
        assert adapter.settled_at == 0
        return
    first, ranks = ranks_that_ship(model), []

    def watch(moment):
        after = replace(moment, step=moment.step + 1)
        if after.progress >= adapter.settled_at:
            assert acting.settled(after)
            ranks.append(ranks_that_ship(model))
        if not acting.resizes:
            assert ranks_that_ship(model) == first

    train(model, acting, steps, watch=watch)
    # What the last event opened ships once its gate has moved: a step later.
    assert len(ranks) > 1
    if name != "sora":  # whose ranks never settle: each file is what it is
        assert all(found == ranks[1] for found in ranks[1:])


@pytest.mark.parametrize("until", [0.55, 0.7, 1.0])
@pytest.mark.parametrize("name", MOVING)
def test_the_last_event_settles(name, until):
    adapter = ADAPTERS.build(name, {"until": until})
    assert adapter.settled_at == until
    acting, _ = acting_of(adapted(adapter), adapter)
    for step in range(20):
        acting.after_step(Moment(step, 20, LR))
        after = Moment(step + 1, 20, LR)
        # Cuttlefish may be early.
        assert acting.settled(after) == (after.progress >= until) or name == "cuttlefish"
    assert acting.settled(Moment(20, 20, LR))


@pytest.mark.parametrize("name", MOVING)
def test_ranks_that_come_or_go_are_told(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    assert acting.resizes
    assert acting.rewires
    seen = [(0, marks(layers))]
    train(model, acting, 30, watch=lambda _: seen.append((acting.renewals, marks(layers))))
    counts = [count for count, _ in seen]
    assert counts == sorted(counts)
    moved = 0
    for (old, before), (new, after) in itertools.pairwise(seen):
        moved += before != after
        assert new > old or before == after
    assert moved or name == "maestro"  # which may keep all its ranks
    assert counts[-1] >= moved


def marks(layers):
    return [layer.live.tolist() for layer in layers.values()]


def test_gates_that_adalora_closes_are_told():
    adapter = ADAPTERS.build("adalora")
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    closed = []
    for step in range(20):
        renewals = acting.renewals
        train(model, acting, 1, start=step, total=20)
        gates = torch.cat([layer.gate for layer in layers.values()])
        if (gates == 0).any():
            closed.append(acting.renewals > renewals)
    assert any(closed)
    assert closed[0]


@pytest.mark.parametrize("gated", [True, False])
def test_a_slot_that_is_renewed_at_once_is_told(gated):
    adapter = ADAPTERS.build("elalora" if gated else "alora")
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    name = next(iter(layers))

    def event(number):
        layers[name].live[0] = 0
        acting.grow([name], 1, gated)

    acting.event, before = event, marks(layers)
    acting.occur(0)
    assert marks(layers) == before
    assert acting.renewals == 1


def test_events_that_change_nothing_are_not_told():
    adapter = ADAPTERS.build("alora", {"swap": 0.0})
    acting, _ = acting_of(adapted(adapter), adapter)
    acting.occur(0)
    assert acting.renewals == 0


@pytest.mark.parametrize("name", [*MOVING, "prilora", "gora"])
def test_what_was_told_is_part_of_the_state(name):
    adapter = ADAPTERS.build(name)
    model = adapted(adapter)
    acting, _ = acting_of(model, adapter)
    train(model, acting, 20)
    again, _ = acting_of(model, adapter)
    again.restore(acting.state())
    assert again.renewals == acting.renewals
    assert acting.renewals > 0 or name == "maestro"


@pytest.mark.parametrize("name", ["adalora", "dora_dynamic", "elalora", "incre_lora", "maestro"])
def test_layers_that_are_off_have_no_penalty(name):
    adapter = ADAPTERS.build(name, {"dem_weight": 1.0} if name == "dora_dynamic" else {})
    model = adapted(adapter)
    acting, layers = acting_of(model, adapter)
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B)
    off, *_ = layers.values()
    for is_off in (False, True):
        off._disable_adapters = is_off
        (found,) = torch.autograd.grad(acting.penalty(), off.lora_B, allow_unused=True)
        assert (found is None) is is_off
    for layer in layers.values():
        layer._disable_adapters = True
    assert not acting.penalty()

"""svd_cascade as published: one rank for all layers, and what its pairs are; ranks too large."""

import pytest
import torch
from networks import calibration, network
from torch import nn

from compression.methods import METHODS
from compression.methods.base import Scene
from compression.methods.chain import chain
from compression.methods.low_rank.factors import truncated
from compression.model import Rule, compress_model, compression_of
from compression.rank_limits import oversized
from compression.registry import InvalidSetting
from study.config import load_config, parse_config
from study.run import DEFAULT
from study.space.combinations import combinations
from study.space.options import corner_plugins

WIDTH, INSIDE = 512, 2048
# A transformer's encoder block: queries, keys, values, outputs, and two layers of its inside.
BLOCK = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (INSIDE, WIDTH), "down": (WIDTH, INSIDE)}
PUBLISHED = {0.1: 34, 0.3: 102, 0.4: 136, 0.5: 170, 0.6: 204, 0.7: 238}
# Published are multiples of 34: 272, 306 and 340. The formula's floors are one more each.
FLOORS = {0.8: 273, 0.9: 307, 1.0: 341}
SMALL = {"a": (20, 30), "b": (64, 96), "c": (3, 50)}


def cascade(**args):
    return METHODS.build("svd_cascade", args)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scene(shapes):
    with torch.device("meta"):
        layers = {name: nn.Linear(n, m, bias=False) for name, (m, n) in shapes.items()}
    return Scene(nn.Identity(), layers)


def error(packed, weight):
    return float((weight - packed.dense()).norm())


# One rank for all layers


@pytest.mark.parametrize(("share", "rank"), [*PUBLISHED.items(), *FLOORS.items()])
def test_published_ranks_are_one_for_the_model_by_its_share(share, rank):
    plan = cascade(pairs=1, share=share, scope="model", factor_bits=32).plan(scene(BLOCK))
    assert {spec.rank for spec in plan.specs.values()} == {rank}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("pairs", [1, 2, 3, 9])
@pytest.mark.parametrize("shapes", [BLOCK, SMALL], ids=["block", "small"])
def test_the_rank_is_the_greatest_that_the_share_allows_clamped_to_each_layer(share, pairs, shapes):
    plan = cascade(pairs=pairs, share=share, scope="model").plan(scene(shapes))
    rank = max(spec.rank for spec in plan.specs.values())
    values = share * sum(m * n for m, n in shapes.values())
    each = pairs * sum(m + n for m, n in shapes.values())
    assert rank == 1 or rank * each <= values * (1 + 1e-12)
    assert (rank + 1) * each > values
    assert {name: spec.rank for name, spec in plan.specs.items()} == {
        name: min(rank, *shape) for name, shape in shapes.items()
    }


def test_a_share_is_the_decimal_that_was_written():
    # 0.29 x 100 is 28.999999999999996 in binary; m n / (m + n) is 100 here.
    plan = cascade(pairs=1, share=0.29).plan(scene({"fc": (200, 200)}))
    assert plan.specs["fc"].rank == 29


def test_a_plan_holds_resolved_methods_whose_bytes_are_known():
    for scope in ("layer", "model"):
        plan = cascade(share=0.3, scope=scope).plan(scene(SMALL))
        for name, spec in plan.specs.items():
            weight = normal(*SMALL[name])
            packed = spec.compress(weight)
            assert packed.method == spec == METHODS.build(spec.name, spec.args())
            assert set(spec.args()) == {"rank"}
    apart = cascade(share=0.3).plan(scene(SMALL)).specs
    assert [spec.rank for spec in apart.values()] == [1, 5, 1]


def test_alone_a_weight_is_all_there_is():
    weight = normal(40, 60)
    both = [cascade(share=0.4, scope=scope).compress(weight) for scope in ("layer", "model")]
    assert both[0].method == both[1].method
    assert torch.equal(both[0].dense(), both[1].dense())


def test_the_rank_reaches_the_layers_through_a_chain_and_a_model():
    first = cascade(share=0.5, scope="model", pairs=1, factor_bits=32)
    plan = chain([first, METHODS.build("rtn")]).plan(scene(BLOCK))
    assert {spec.first.rank for spec in plan.specs.values()} == {170}
    model = network()
    compress_model(model, [Rule(methods=(first,))], ["*"], calibration=calibration())
    ranks = {name: e.method.rank for name, e in compression_of(model).layers.items()}
    assert max(ranks.values()) == int(0.5 * (54 + 270 + 540 + 84) / (15 + 59 + 57 + 19)) == 3


# Pairs


@pytest.mark.parametrize("pairs", [2, 3, 4, 6, 9])
def test_pairs_are_one_svd_to_float64(pairs):
    weight = normal(48, 80, dtype=torch.float64)
    found, rank = torch.zeros_like(weight), 36 // pairs
    for _ in range(pairs):
        left, right = truncated(weight - found, rank)
        found = found + left @ right
    left, right = truncated(weight, 36)
    assert float((found - left @ right).norm() / weight.norm()) < 1e-12


@pytest.mark.parametrize("pairs", [2, 3, 4, 6, 9])
def test_pairs_in_floats_are_one_svd_to_float32(pairs):
    weight = normal(48, 80)
    many = cascade(pairs=pairs, rank=36 // pairs, factor_bits=32).compress(weight)
    one = METHODS.build("svd", {"rank": 36}).compress(weight)
    assert float((many.dense() - one.dense()).norm() / weight.norm()) < 1e-5


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("pairs", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_quantised_pairs_are_a_knob(bits, pairs, seed):
    weight = normal(96, 128, seed=seed)
    many = cascade(pairs=pairs, rank=36 // pairs, factor_bits=bits).compress(weight)
    one = cascade(pairs=1, rank=36, factor_bits=bits).compress(weight)
    assert many.stored_bytes() == one.stored_bytes()
    assert error(many, weight) < error(one, weight)


# What is said of it


def test_notes_are_said_once_for_the_model_with_the_reason():
    notes = cascade(pairs=3, share=0.3, scope="model", factor_bits=32).plan(scene(BLOCK)).notes
    assert len(notes) == 1
    assert "k pairs of rank r are one SVD of rank k r" in notes[0]
    assert not cascade(pairs=3, share=0.3, scope="model").plan(scene(BLOCK)).notes


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("bits", [4, 32])
def test_a_share_of_all_is_said_to_save_no_values(scope, bits):
    args = {"pairs": 1, "scope": scope, "factor_bits": bits}
    notes = cascade(share=1.0, **args).plan(scene(BLOCK)).notes
    assert "no fewer values than the dense layers" in notes[0]
    below = cascade(share=0.9, **args).plan(scene(BLOCK)).notes
    assert not any("dense layers" in note for note in below)


# Ranks at which factors save nothing: of 20 x 30 from 600 / 50 = 12 on


RANKED = ["svd", "whitened_svd", "afm", "utilized_rank", "block_svd", "kronecker", "cur"]


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("shape", [(20, 30), (64, 96), (8, 6, 3, 3)], ids=str)
def test_a_limit_is_where_values_reach_those_of_the_weight(name, shape):
    """The limit's slow twin: count what is laid out."""
    cells = torch.Size(shape).numel()
    for rank in range(1, 80):
        method = METHODS.build(name, {"rank": rank})
        if method._rank(shape) < rank:
            break
        values = sum(torch.Size(slot.shape).numel() for slot in method.layout(shape).values())
        assert method.rank_limit(shape).reached == (values >= cells), rank
    assert METHODS.build(name).rank_limit(shape) is None


@pytest.mark.parametrize(("rank", "reached"), [(11, False), (12, True), (13, True), (10_000, True)])
def test_a_rank_that_saves_nothing_in_any_layer_is_named(rank, reached):
    shapes = {"a": (20, 30), "c": (3, 50)}
    for method in (
        METHODS.build("svd", {"rank": rank}),
        METHODS.build("svd", {"rank": rank, "factor_dtype": "float16"}),
        chain([METHODS.build("svd", {"rank": rank}), METHODS.build("rtn")]),
        cascade(pairs=1, rank=rank, factor_bits=16),
    ):
        problem = oversized(method, shapes)
        assert (problem is not None) == reached
        if problem:
            assert f"at rank {rank} " in problem
            assert "is largest for 'a', 12.0" in problem
        assert oversized(method, shapes | {"b": (10**5, 10**5)}) is None


def test_pairs_count_together_and_quantised_ones_may_have_any_rank():
    shapes = {"a": (20, 30)}
    assert oversized(cascade(pairs=2, rank=6, factor_bits=32), shapes)
    assert not oversized(cascade(pairs=2, rank=5, factor_bits=32), shapes)
    assert not oversized(cascade(pairs=9, rank=20, factor_bits=4), shapes)
    assert not oversized(METHODS.build("rtn"), shapes)
    assert not oversized(METHODS.build("svd"), shapes)


def test_a_structural_method_does_not_hide_a_rank():
    both = chain([METHODS.build("channels"), METHODS.build("svd", {"rank": 12})])
    assert oversized(both, {"a": (20, 30)})


def test_a_model_is_refused_such_a_rank_and_notes_say_where_it_saves_nothing():
    with pytest.raises(InvalidSetting, match="at rank 30 .* largest for '6', 9.5"):
        compress_model(network(), [Rule(methods=(METHODS.build("svd", {"rank": 30}),))], ["*"])
    model = network()
    svd = METHODS.build("svd", {"rank": 8, "factor_dtype": "float16"})
    compress_model(model, [Rule(methods=(svd,))], ["*"])
    notes = compression_of(model).notes
    assert "8: svd has no fewer values at rank 7, dense is exact" in notes
    assert not any(note.startswith("6: ") for note in notes)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("{svd: {rank: [4, 20]}}", "svd: at rank 20 the factors"),
        ("{svd: {rank: {low: 1, high: 20}}}", "svd: at rank 20 the factors"),
        ("[[{svd: {rank: 20}}, rtn]]", "svd+rtn: at rank 20 the factors"),
        ("{svd_cascade: {pairs: [2, 3], rank: 7, factor_bits: 32}}", "svd_cascade: at rank 21 the"),
    ],
)
def test_a_config_is_refused_such_a_rank(method, expected):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"task: digits\nspace:\n  method: {method}\n", "c.yaml")
    (line,) = caught.value.errors
    assert line.startswith(f"c.yaml:3: space.method: {expected}")
    assert "is largest for '1', 19.5" in line
    fits = method.replace("20", "19").replace("7", "6")
    parse_config(f"task: digits\nspace:\n  method: {fits}\n")


# The published sweeps


@pytest.mark.parametrize("sweep", ["pairs", "share", "translation"])
def test_a_published_sweep_is_a_grid_that_its_trials_go_through(sweep):
    path = DEFAULT.parent / f"svd_lora_{sweep}.yaml"
    config = load_config(path)
    assert combinations(config.search_space().params) == config.trials
    knobs = {"factor_bits": "4", "group_size": "0"}
    quantised = {f"space.method.svd_cascade.{knob}": value for knob, value in knobs.items()}
    params = load_config(path, quantised).search_space().params
    assert combinations(params) == config.trials
    assert {spec.factor_bits for spec in _cascades(params)} == {4}


def test_the_corrected_study_rounds_every_factor():
    params = load_config(DEFAULT.parent / "svd_lora.yaml").search_space().params
    assert {spec.factor_bits for spec in _cascades(params)} == {3, 4, 8}


def _cascades(params):
    own = {key: param for key, param in params.items() if key.startswith("svd_cascade.")}
    return list(corner_plugins("method", "svd_cascade", own))

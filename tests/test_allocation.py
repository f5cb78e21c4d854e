"""Allocation in a study: files that fit, what is kept, what is refused, and in which order."""

import itertools
import json
import re
from dataclasses import replace
from functools import partial

import pytest
from test_layerwise import FEW, digits, file_bytes, settings_of, space_of

from compression.allocation import ALLOCATORS
from compression.allocation.least_sum import least_sum
from compression.registry import InvalidSetting
from study import description
from study.allocation.allocations import FILE, allocated, allocations
from study.allocation.costs import Evidence
from study.allocation.refining import cost, refined
from study.checks import identity_errors
from study.config import make_config, parse_config
from study.coverage import done
from study.errors import StudyError
from study.layerwise import sensitivity as measuring
from study.layerwise.fitting import fitting
from study.layerwise.guide import guide
from study.layerwise.repair import least_bytes
from study.layerwise.settings import Settings, between
from study.layerwise.sizes import Sizes
from study.loop.search import StudySearch
from study.objectives import aims
from study.plan import plan_lines
from study.store.storage import Storage

SPACE = """
task: digits
epochs: 2
calibration: {samples: 64}
space:
  method: %s
  init: [zeros, residual]
  adapter: %s
  rank: [1, 2]
  optimizer: [{adam: {lr: {low: 0.001, high: 0.01}}}]
  allocate: {%s}
"""
RTN = "{rtn: {bits: [2, 4, 8], mode: symmetric, group_size: 0}}"
BITS_AND_RANKS = f"[none, {RTN}, {{svd: {{rank: [2, 6]}}}}]"
SVD = "{svd: {rank: {low: 1, high: 12}}}"
METHODS = {  # of allocators that do not take everything
    "alds": f"[none, {SVD}, {{block_svd: {{tile: [16, 32], rank: [1, 4]}}}}]",
    "welore": f"[none, {SVD}]",
    "rd_prune": "[none, {magnitude: {sparsity: [0.3, 0.6, 0.8, 0.9]}}]",
}


def config_of(name, adapter="[none, lora]", size="target_ratio: 2.5", refine=0):
    allocate = f"{size}, by: {name}, refine: {refine}"
    return parse_config(SPACE % (METHODS.get(name, BITS_AND_RANKS), adapter, allocate))


def unmeasured(space):
    return Settings(space, Sizes(space, *digits()), {group.name: {} for group in space.groups})


def evidence_of(config):
    task, data = digits()
    space = config.search_space()
    return Evidence(
        task,
        data,
        unmeasured(space),
        lambda m: measuring.measured(space, task, data, 64, 0, m).growths,
    )


@pytest.mark.parametrize("name", ALLOCATORS)
def test_every_allocator_makes_a_file_that_fits(name):
    """By the file itself: saved, header included."""
    config = config_of(name)
    evidence = evidence_of(config)
    budget = config.space.allocate.budget(evidence.settings.sizes.dense_bytes)
    found = allocated(ALLOCATORS.build(name), evidence, budget, 0, 0, name)
    assert found.file_bytes <= budget
    assert found.file_bytes == file_bytes(evidence.space, evidence.space.to_trial(found.params, 0))
    assert (found.solved, found.kept, found.tried) == (None, None, 0)


@pytest.mark.parametrize("name", [n for n in ALLOCATORS if not ALLOCATORS[n].measure])
def test_what_looks_at_weights_measures_nothing(name):
    config = config_of(name)
    task, data = digits()
    space = config.search_space()
    settings = unmeasured(space)
    evidence = Evidence(task, data, settings, lambda measure: pytest.fail("measured"))
    allocated(ALLOCATORS.build(name), evidence, settings.sizes.dense_bytes // 2, 0, 0, name)


def test_who_knows_nothing_of_adapters_gives_each_layer_the_smallest():
    evidence = evidence_of(config_of("welore"))
    adapted, bare = evidence.tables(ALLOCATORS.build("welore"))
    for several in adapted.values():
        for setting in several:
            own = dict(setting.values)
            dense = own["method"] == "none"
            assert (own["adapter"] == "none") == dense
            assert dense or own["rank"] == 1
    assert all(s.kind[0] == "none" for several in bare.values() for s in several)


@pytest.fixture(scope="module")
def allotted():
    config = config_of("measured", refine=6)
    evidence = evidence_of(config)
    budget = config.space.allocate.budget(evidence.settings.sizes.dense_bytes)
    return evidence, budget, allocated(ALLOCATORS.build("measured"), evidence, budget, 6, 0, "m")


def test_measuring_never_makes_it_worse(allotted):
    _, budget, found = allotted
    assert found.tried == 6
    assert found.kept <= found.solved
    assert (found.changed == 0) == (found.kept == found.solved)
    assert found.file_bytes <= budget
    assert f"{budget:,} bytes" in found.note


def test_the_same_is_allocated_again(allotted):
    evidence, budget, found = allotted
    assert allocated(ALLOCATORS.build("measured"), evidence, budget, 6, 0, "m") == found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [1.1, 1.4, 1.9])
def test_no_combination_that_fits_into_as_many_bytes_is_better(seed, factor):
    """Against all combinations: of settings whose bytes fit beside the solution's own header."""
    settings = settings_of(FEW, seed)
    table = {g: [s for s in own if s.kind[0] == "none"] for g, own in settings.of.items()}
    most = int(least_bytes(settings) * factor)

    def size(state):
        return settings.file_bytes(settings.flat(state, {}))

    found = fitting(table, least_sum, size, most).state
    assert size(found) <= most
    beside = size(found) - sum(s.bytes for s in found.values())
    for chosen in itertools.product(*table.values()):
        if sum(s.bytes for s in chosen) + beside <= most:
            assert cost(found) <= sum(s.loss for s in chosen) + 1e-12


def test_a_gap_of_the_solver_is_said(allotted):
    """With so few states kept that the least sum is not proven."""
    settings = settings_of(FEW, 1)

    def size(state):
        return settings.file_bytes(settings.flat(state, {}))

    most = int(1.5 * least_bytes(settings))
    rough = fitting(settings.of, partial(least_sum, most_states=1), size, most)
    exact = fitting(settings.of, least_sum, size, most)
    assert exact.gap == 0 <= rough.gap
    found = allotted[2]
    assert found.gap == 0
    assert "least sum" not in found.note
    assert "within 0.5 of the least sum" in replace(found, gap=0.5).note


def test_what_is_measured_fits_and_is_measured_once():
    settings = settings_of(FEW, 1)
    most, seen = int(1.5 * least_bytes(settings)), []

    def size(state):
        return settings.file_bytes(settings.flat(state, {}))

    def loss(state):
        seen.append(tuple(s.values for s in state.values()))
        return 1.0

    first = fitting(settings.of, least_sum, size, most).state
    found = refined(settings.of, least_sum, size, most, first, loss, 12)
    assert found[0] == (first, 1.0)
    assert all(size(state) <= most for state, _ in found)
    assert len(found) == len(seen) == len(set(seen)) == 12
    assert fitting(settings.of, least_sum, size, least_bytes(settings) - 1) is None


def test_what_is_measured_leads_to_what_is_better():
    """With a loss that the costs know nothing of: bytes that are spent on the last group."""
    settings = settings_of(FEW, 1)
    table = {g: [s for s in own if s.kind[0] == "none"] for g, own in settings.of.items()}

    def size(state):
        return settings.file_bytes(settings.flat(state, {}))

    def loss(state):
        return -state["5"].bytes

    most = int(1.3 * least_bytes(settings))
    first = fitting(table, least_sum, size, most).state
    values = [value for _, value in refined(table, least_sum, size, most, first, loss, 60)]
    richest = max(s.bytes for s in table["5"])
    assert min(values) == -richest < values[0]


def test_between_two_measurements_lies_their_mean():
    assert between([(10, 4.0), (20, 1.0)], 15) == pytest.approx(2.0)
    assert between([(10, 4.0), (20, -1.0)], 15) == pytest.approx(1.5)
    assert [between([(10, 4.0), (20, 1.0)], at) for at in (5, 10, 20, 99)] == [4, 4, 1, 1]


def test_a_study_keeps_what_was_allocated(tmp_path, monkeypatch):
    config = config_of("welore", refine=2)
    evidence, storage, said = evidence_of(config), Storage.open(tmp_path), []
    parts = (config.space.allocate, evidence, 6_000, 0, storage, said.append)
    first = allocations(*parts)
    module = "study.allocation.allocations.allocated"
    monkeypatch.setattr(module, lambda *parts: pytest.fail("allocated again"))
    assert allocations(*parts) == first
    assert len(said) == 1
    assert "allocation by welore" in said[0]
    storage.write_text(FILE, '[{"by": 1}]')
    with pytest.raises(StudyError, match="delete it"):
        allocations(*parts)


def test_a_study_begins_with_an_allocation_of_each(tmp_path):
    task, data = digits()
    text = SPACE % (BITS_AND_RANKS, "[none, lora]", "max_bytes: 6kB, by: [mlorq, measured]")
    config = parse_config(text)
    space = config.search_space()
    found = guide(config, space, data, Storage.open(tmp_path), print)
    kept = json.loads((tmp_path / FILE).read_text())["allocations"]
    assert [one["by"] for one in kept] == ["mlorq", "measured"]
    wanted = [one["params"] for one in kept]
    assert [dict(start) for start in found.starts[:2]] == list(
        {json.dumps(w): w for w in wanted}.values()
    )
    sizes = Sizes(space, task, data)
    for start in found.starts:
        assert sizes.file_bytes(space.to_trial(start, 0)) <= 6_000
        assert found.repair.fits(dict(start))
    search = StudySearch(
        config.searcher, space, aims(task, None), 0, starts=found.starts, repair=found.repair
    )
    for number, start in enumerate(found.starts):  # as allocated, whatever may be left to spend
        assert dict(start).items() <= search.ask(number).items()
    again = guide(config, space, data, Storage.open(tmp_path), lambda text: pytest.fail(text))
    assert again.starts == found.starts


def test_a_study_is_not_resumed_with_another_allocation():
    one, other = (
        description.asked(parse_config(SPACE % (BITS_AND_RANKS, "[none]", size)))
        for size in ("max_bytes: 6kB", "max_bytes: 7kB")
    )
    (error,) = identity_errors(one, other)
    assert "allocate.max_bytes: the study has 6000, now asked: 7000" in error


def test_a_uniform_space_becomes_one_by_layer_and_stays_so_as_json():
    config = config_of("measured")
    assert list(config.space.layerwise.groups) == ["1", "3", "5"]
    assert make_config(config.to_json()).search_space() == config.search_space()


def test_ranks_for_a_whole_model_are_cut_for_its_small_layers():
    space = config_of("welore").search_space()
    assert [space.params[f"{g}/svd.rank"].domain.high for g in "135"] == [12, 12, 7]


WRONG = [
    ("", "how small? set max_bytes"),
    ("target_ratio: 2, max_bytes: 3kB", "max_bytes and target_ratio are both given"),
    ("target_ratio: 1", "target_ratio: expected how many times smaller than dense, above 1"),
    ("target_ratio: two", "target_ratio: expected how many times smaller"),
    ("max_bytes: 3 apples", "max_bytes: expected bytes"),
    ("target_ratio: 2, by: []", "by: the list is empty"),
    ("target_ratio: 2, by: [measured, measured]", "by: measured: named twice"),
    ("target_ratio: 2, by: mesured", "did you mean 'measured'?"),
    ("target_ratio: 2, refine: -1", "refine: "),
    ("target_ratio: 2, by: [alds]", "alds cannot take rtn: it bounds"),
    ("max_bytes: 1kB", "1,000 bytes are below"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_wrong_is_said_before_anything_runs(text, expected):
    with pytest.raises(InvalidSetting) as found:
        parse_config(SPACE % (BITS_AND_RANKS, "[none, lora]", text))
    found = found.value.errors
    assert any("space.allocate" in line and expected in line for line in found), found


def test_a_budget_below_the_least_says_what_takes_it():
    with pytest.raises(InvalidSetting, match="of the target layers' weights and adapters") as found:
        config_of("measured", size="max_bytes: 1kB")
    (line,) = found.value.errors
    task, data = digits()
    sizes = Sizes(config_of("measured").search_space(), task, data)
    least = int(re.search(r"below ([\d,]+), the least", line)[1].replace(",", ""))
    config_of("measured", size=f"max_bytes: {least}")
    with pytest.raises(InvalidSetting):
        config_of("measured", size=f"max_bytes: {least - 1}")
    assert least < sizes.dense_bytes


def test_one_choice_is_nothing_to_allocate():
    text = SPACE % ("[{rtn: {bits: 4, mode: symmetric, group_size: 0}}]", "none", "target_ratio: 2")
    with pytest.raises(InvalidSetting, match="there is nothing to choose"):
        parse_config(text)


def test_bytes_are_set_in_one_place():
    text = SPACE % (BITS_AND_RANKS, "none", "target_ratio: 2")
    with pytest.raises(InvalidSetting, match="allocate sets the bytes"):
        parse_config(text + "  layerwise: {groups: each, max_bytes: 3kB}\n")
    parse_config(text + "  layerwise: {groups: each, fill: true}\n")


def test_the_plan_shows_it():
    lines = plan_lines(config_of("measured", size="max_bytes: 6kB", refine=4))
    assert any("within 6,000 bytes" in line and "measured" in line for line in lines)
    assert not any("allocation" in line for line in plan_lines(parse_config(FEW)))


def test_the_published_ones_are_covered():
    made = {one.name for several in done().values() for one in several if one.kind == "allocator"}
    assert made == {name for name in ALLOCATORS if ALLOCATORS[name].catalogue_id}


def test_the_space_of_layers_is_as_it_was():
    assert space_of(FEW).to_json() == parse_config(FEW).search_space().to_json()

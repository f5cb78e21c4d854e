from study.config import parse_config
from study.events import BASELINES
from study.space.baselines import baselines
from trainables.record import NONE, Choice

SPACE = """
task: digits
epochs: 5
space:
  method: [int1]
  adapter: [none, dora, lora]
  init: [residual]
  rank: {low: 1, high: 6}
  optimizer: [{sgd: {lr: {low: 0.01, high: 1.0, log: true}}}, adam]
  batch_size: [16, 64]
  rest: [cast]
"""


def test_all_four_with_the_study_seed():
    found = baselines(parse_config(SPACE).search_space(), 3)
    assert tuple(found) == BASELINES
    assert {t.seed for t in found.values()} == {3}


def test_dense_is_untouched():
    dense = baselines(parse_config(SPACE).search_space(), 0)["dense"]
    assert dense.epochs == 0
    assert dense.rest == NONE
    assert [r.methods for r in dense.layers] == [(NONE,)]


def test_dense_recovered_trains_as_long_as_the_compressed_ones():
    trial = baselines(parse_config(SPACE).search_space(), 0)["dense_recovered"]
    (rule,) = trial.layers
    assert trial.epochs == 5
    assert rule.methods == (NONE,)
    assert (rule.adapter.name, rule.rank, rule.init.name) == ("dora", 6, "zeros")
    assert (trial.optimizer.name, trial.batch_size) == ("sgd", 16)
    assert abs(trial.lr - 0.1) < 1e-9  # the middle of the range, in logarithms
    assert trial.rest == NONE


def test_without_adapters_nothing_is_recovered():
    space = parse_config(SPACE.replace("[none, dora, lora]", "[none]")).search_space()
    assert "dense_recovered" not in baselines(space, 0)


def test_fp16_casts_everything_and_int8_is_plain_rounding():
    found = baselines(parse_config(SPACE).search_space(), 0)
    assert found["fp16"].rest == Choice("cast")
    assert found["fp16"].layers[0].methods == (Choice("cast"),)
    assert found["int8"].layers[0].methods[0].args["bits"] == 8

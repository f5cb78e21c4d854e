"""Scores, held against scikit-learn's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from trainables.scoring import metrics

pairs = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


@given(pairs)
@pytest.mark.filterwarnings("ignore:.*single label.*", "ignore:y_pred contains classes")
def test_scores_are_those_of_scikit_learn(pair):
    prediction, labels = map(torch.tensor, pair)
    expected = {
        "balanced_accuracy": balanced_accuracy_score(labels, prediction),
        "f1": f1_score(labels, prediction, average="macro"),
        "mcc": matthews_corrcoef(labels, prediction),
    }
    found = {name: getattr(metrics, name)(prediction, labels) for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)


@given(pairs)
def test_confusion_has_the_labels_in_rows(pair):
    prediction, labels = map(torch.tensor, pair)
    found = metrics.confusion(prediction, labels)
    expected = confusion_matrix(labels, prediction, labels=range(len(found)))
    assert (found.numpy() == expected).all()


def test_a_constant_guess_has_balanced_accuracy_one_in_k_and_no_correlation():
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    guess = torch.zeros_like(labels)
    assert metrics.balanced_accuracy(guess, labels) == pytest.approx(1 / 3)
    assert metrics.mcc(guess, labels) == 0.0


def test_all_scores_of_a_classifier_come_together():
    logits, labels = torch.randn(40, 3), torch.randint(3, (40,))
    scores = metrics.classification_scores(metrics.classified(logits, labels), labels)
    assert scores["accuracy"] == (logits.argmax(-1) == labels).double().mean()
    assert scores["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert set(scores) == {"accuracy", "balanced_accuracy", "f1", "mcc", "loss"}


def test_who_might_fall_into_another_class():
    logits = torch.tensor([[4.0, 4.0 + 6e-5, 0.0], [4.0, 4.0 + 2e-4, 0.0], [-2.0, -3.0, -2.0]])
    # Off by 1e-5 of 4 either way: 8e-5 between two.
    found = metrics.runners_up(logits, 1e-5)
    assert found[:2].tolist() == [0, -1]
    assert found[2] in (0, 2)
    assert metrics.runners_up(logits[:, :1], 1e-5).tolist() == [-1, -1, -1]


def test_a_model_without_knowledge_has_a_perplexity_of_the_vocabulary():
    tokens = torch.randint(50, (3, 9))
    seen = metrics.next_tokens(torch.zeros(3, 9, 50), tokens)
    assert metrics.perplexity(seen["nll"], seen["tokens"]) == pytest.approx(50)
    assert seen["tokens"].tolist() == [8, 8, 8]


def test_the_sums_of_texts_are_those_of_the_shifted_cross_entropy():
    logits, tokens = torch.randn(4, 7, 11), torch.randint(11, (4, 7))
    seen = metrics.next_tokens(logits, tokens)
    mean = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert math.log(metrics.perplexity(seen["nll"], seen["tokens"])) == pytest.approx(mean.item())
    hits = (logits[:, :-1].argmax(-1) == tokens[:, 1:]).sum(1)
    assert torch.equal(seen["hits"], hits)


def test_a_text_that_is_foretold_has_perplexity_one():
    tokens = torch.randint(11, (2, 7))
    logits = torch.full((2, 7, 11), -100.0)
    logits[:, :-1].scatter_(2, tokens[:, 1:, None], 100.0)
    seen = metrics.next_tokens(logits, tokens)
    assert metrics.perplexity(seen["nll"], seen["tokens"]) == pytest.approx(1)
    assert torch.equal(seen["hits"], seen["tokens"])

"""What encoder-decoders write, how it is scored, how they are taught."""

from functools import partial

import pytest
import torch
import translation_examples

from trainables import features
from trainables.build import build, count_macs
from trainables.data.pairs import IGNORED
from trainables.models import translation
from trainables.record import Choice, LayerRule, Trial
from trainables.scoring import translations
from trainables.tasks import TASKS, observe, predict

MODELS = translation_examples.CONFIGS


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return TASKS.build("seq2seq", translation_examples.seq2seq(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def data(task):
    return task.prepare(0)


def texts_of(task, ids):
    return [t.strip() for t in task.tokenizer.batch_decode(ids, skip_special_tokens=True)]


# Scores

REFERENCES = ["Der alte Lehrer kauft ein Buch.", "Ja, sie hat es gesehen!", "Nein.", "Ganz so."]
WRITTEN = ["Der alte Lehrer hat ein Buch.", "Ja, sie hat es gesehen!", "", "Nichts davon stimmt."]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1], [2], [3, 3, 0], [2, 0, 1, 1, 1]])
def test_scores_are_those_of_sacrebleu(rows):
    import sacrebleu

    observed = translations.counts(WRITTEN, REFERENCES)
    assert [observed[name].shape for name in translations.NAMES] == [(4, 10), (4, 18)]
    ours = translations.scores({key: value[rows] for key, value in observed.items()})
    texts = [WRITTEN[i] for i in rows], [[REFERENCES[i] for i in rows]]
    assert ours["bleu"] == pytest.approx(sacrebleu.corpus_bleu(*texts).score / 100, abs=1e-12)
    assert ours["chrf"] == pytest.approx(sacrebleu.corpus_chrf(*texts).score / 100, abs=1e-12)


def test_a_task_scores_what_its_model_wrote_against_the_text_itself(task, data):
    import sacrebleu

    part = data.validation
    ids = predict(partial(task.forward, data.model), part, 64)
    assert ids.shape == (len(part), task.max_length)
    written = texts_of(task, ids)
    from trainables.data import pairs

    references = pairs.divided(task.data, "source", "target", 0)[1].targets
    scores = task.score(observe(task, partial(task.forward, data.model), part), part.labels)
    expected = sacrebleu.corpus_chrf(written, [references]).score / 100
    assert scores["chrf"] == pytest.approx(expected, abs=1e-12)
    assert scores["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(written, [references]).score / 100, abs=1e-12
    )
    assert task.objective.is_fraction
    assert task.correct({}, part.labels) is None


# What a model writes


@pytest.mark.parametrize("name", MODELS)
def test_a_translation_does_not_depend_on_the_batch(name, tmp_path):
    task = translation_examples.own(tmp_path, name)
    data = task.prepare(0)
    rows = torch.arange(12)
    together = task.forward(data.model, data.validation.inputs(rows))
    assert together.shape == (12, task.max_length)
    assert torch.equal(together, task.forward(data.model, data.validation.inputs(rows)))
    alone = [task.forward(data.model, data.validation.inputs(row)) for row in rows[::4].split(1)]
    assert torch.equal(torch.cat(alone), together[::4])
    assert together.unique().numel() > 2


def test_writing_is_taking_the_likeliest_next_token(task, data):
    sources = data.validation.inputs(torch.arange(6))
    ids = task.forward(data.model, sources)
    so_far = torch.full((6, 1), translation.PAD)
    done = torch.zeros(6, dtype=torch.bool)
    for place in range(task.max_length):
        logits = task.forward(data.model, sources | {translation.TEACHER: so_far})[:, -1]
        logits[:, translation.PAD] = -torch.inf
        token = logits.argmax(-1).masked_fill(done, translation.PAD)
        assert torch.equal(ids[:, place], token)
        done |= token == translation.END
        so_far = torch.cat([so_far, token[:, None]], 1)


# Teaching


def test_teacher_inputs_are_the_labels_one_place_on(task, data):
    for rows in data.train.order(16, torch.Generator().manual_seed(0)):
        batch = data.train.batch(rows)
        before = batch.inputs[translation.TEACHER]
        length = before.shape[1]
        assert length != batch.inputs["attention_mask"].shape[1]
        assert (batch.labels[:, length:] == IGNORED).all()
        assert (before[:, 0] == translation.PAD).all()
        real = batch.labels[:, : length - 1] != IGNORED
        assert torch.equal(before[:, 1:][real], batch.labels[:, : length - 1][real])
        assert (batch.labels == translation.END).sum(1).eq(1).all()
    assert IGNORED not in before
    assert translation.TEACHER not in data.validation.inputs(torch.arange(2))


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_padding_does_not_move_the_loss(name, tmp_path):
    task = translation_examples.own(tmp_path, name)
    data = task.prepare(0)
    rows = torch.arange(8)
    batch = data.train.batch(rows)
    wide = {
        key: torch.nn.functional.pad(value, (0, 5), value=0) for key, value in batch.inputs.items()
    }
    labels = torch.nn.functional.pad(batch.labels, (0, 5), value=IGNORED)
    one, two = (
        task.loss(task.forward(data.model, i), y)
        for i, y in ((batch.inputs, batch.labels), (wide, labels))
    )
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    singles = [data.train.batch(row) for row in rows.split(1)]
    counts = torch.tensor([float((b.labels != IGNORED).sum()) for b in singles])
    losses = [task.loss(task.forward(data.model, b.inputs), b.labels).item() for b in singles]
    mean = (torch.tensor(losses) * counts).sum() / counts.sum()
    assert one.item() == pytest.approx(mean.item(), rel=1e-4)


# What the machinery makes of it


def test_macs_count_each_token_that_is_written(task, data):
    trial = Trial(Choice("seq2seq"), (LayerRule((Choice("none"),)),))
    model = build(task, data, trial)
    sample = data.validation.inputs(torch.arange(1))
    tokens = int((task.forward(model, sample) != translation.PAD).sum())
    width, words = task.width, sample["input_ids"].shape[1]
    attention, dense = 4 * width**2, 4 * width**2
    encoder = words * (attention + dense)
    decoder = tokens * (attention + 2 * width**2 + dense) + words * 2 * width**2
    assert count_macs(model, task, data) == encoder + decoder + tokens * width * task.vocabulary


def test_features_in_the_encoder_give_what_the_whole_model_gives(tmp_path):
    task = translation_examples.own(tmp_path, "marian", layers="*decoder.*")
    data = task.prepare(0)
    rules = (LayerRule((Choice("rtn"),), adapter=Choice("lora"), rank=2),)
    model = build(task, data, Trial(Choice("seq2seq"), rules))
    stage = features.stage(task, data, model, training=True)
    rows = torch.arange(6)
    assert stage.note == "all up to model.encoder.layers.1 is computed once"
    for mine, theirs in ((stage.train, data.train), (stage.validation, data.validation)):
        expected = task.forward(model, theirs.inputs(rows))
        assert torch.allclose(stage.forward(mine.inputs(rows)), expected, atol=1e-4)


def test_all_targets_leave_nothing_to_skip(task, data):
    rules = (LayerRule((Choice("rtn"),)),)
    model = build(task, data, Trial(Choice("seq2seq"), rules))
    assert "the first block of layers is changed" in features.stage(task, data, model).note


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_small_model_learns_the_grammar():
    task = TASKS.build("seq2seq")
    data = task.prepare(0)
    scores = task.score(
        observe(task, partial(task.forward, data.model), data.validation), data.validation.labels
    )
    assert scores["bleu"] > 0.8
    assert scores["chrf"] > 0.9

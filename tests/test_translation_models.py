"""Encoder-decoders from folders: taken as they are, compressed, saved, read back, sent away."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial

import pytest
import text_examples
import torch
import translation_examples
from tiny_task import Shelf
from translation_examples import own

from compression.artifact import deserialize, serialize
from compression.model import target_layers
from compression.registry import InvalidSetting
from trainables.attempt import Attempt
from trainables.build import build, count_macs
from trainables.calibration import calibrated
from trainables.models import language
from trainables.models.state import state_hash
from trainables.record import Choice, LayerRule, Status, Trial
from trainables.tasks import TASKS, observe

MODELS = translation_examples.CONFIGS


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_taken_as_it_is_and_comes_back_from_its_file(name, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    task = own(tmp_path, name)
    task.check()
    data = task.prepare(0)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    assert data.fingerprint.weights == state_hash(theirs)
    inputs = data.train.inputs(torch.arange(4))
    assert torch.allclose(task.forward(data.model, inputs), theirs(**inputs).logits, atol=1e-5)
    again = deserialize(serialize(data.model), task.architecture())
    sources = data.validation.inputs(torch.arange(4))
    for given in (inputs, sources):
        assert torch.equal(task.forward(again, given), task.forward(data.model, given))
    assert again.generation_config.to_dict() == data.model.generation_config.to_dict()
    layers = target_layers(data.model, task.targets)
    linear = {n for n, m in data.model.named_modules() if type(m) is torch.nn.Linear}
    tied = language.tied(data.model)
    assert set(layers) == linear - set(tied)
    assert bool(tied) == (not name.endswith("untied"))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_compressed_model_is_trained_saved_and_read_back(name, tmp_path):
    task = own(tmp_path, name, languages="en_XX,de_DE", prefix="translate: ")
    data = calibrated(task.prepare(0), 24, 0)
    rules = (LayerRule((Choice("whitened_svd"),), adapter=Choice("lora"), rank=2),)
    training = {"optimizer": Choice("adam"), "lr": 1e-2, "batch_size": 64, "epochs": 1}
    trial, shelf = Trial(Choice("seq2seq"), rules, **training), Shelf()
    attempt = Attempt(task, data, trial, shelf)
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    assert set(attempt.outcome.metrics["val"]) == {"bleu", "chrf"}
    model = build(task, data, trial)
    again = deserialize(serialize(model), task.architecture())
    ids = task.forward(again, data.validation.inputs(torch.arange(3)))
    assert (ids[:, 0] == task.tokenizer.convert_tokens_to_ids("de_DE")).all()
    assert count_macs(model, task, data) > 0


WORKER = """
import pickle, sys
from functools import partial
from trainables.tasks import observe

with open(sys.argv[1], "rb") as file:
    task, data = pickle.load(file)
observed = observe(task, partial(task.forward, data.model), data.validation)
print(task.score(observed, data.validation.labels)["chrf"], task.targets)
"""


@pytest.mark.slow
def test_a_worker_needs_no_file(tmp_path):
    task = own(tmp_path, "bart")
    data = task.prepare(0)
    fresh = TASKS.build("seq2seq", task.args())  # has read nothing so far
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps((fresh, data)))
    observed = observe(task, partial(task.forward, data.model), data.validation)
    expected = f"{task.score(observed, data.validation.labels)['chrf']} {task.targets}\n"
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "pairs.csv").unlink()
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(sent)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_what_is_wrong_is_said_at_once(tmp_path):
    wrong = {"model": str(tmp_path / "none"), "data": str(tmp_path / "no.csv")}
    with pytest.raises(InvalidSetting) as error:
        TASKS.build("seq2seq", wrong).check()
    assert [e.split("'")[0] for e in error.value.errors] == [
        "seq2seq: model: there is no folder ",
        "seq2seq: data: there is no file ",
    ]
    for change, message in (
        ({"max_length": 65}, "max_length: 65, but the model takes 64"),
        ({"layers": "*.quarry"}, r"'\*\.quarry' matches no Linear"),
        ({"languages": "en_XX,fr_XX"}, "tokenizer has no token 'fr_XX'"),
    ):
        with pytest.raises(InvalidSetting, match=message):
            own(tmp_path, "marian", **change).check()
    with pytest.raises(InvalidSetting, match="expected two of a multilingual model's codes"):
        TASKS.build("seq2seq", {"languages": "de"})
    with pytest.raises(InvalidSetting, match="has no effect here"):
        TASKS.build("seq2seq", {"model": "some/model", "width": 64})
    encoder = text_examples.encoder(tmp_path / "bert")
    with pytest.raises(InvalidSetting, match="is a bert, no encoder-decoder"):
        TASKS.build("seq2seq", {"model": str(encoder)}).check()


def test_a_folder_without_a_fast_tokenizer_is_refused_by_name(tmp_path):
    """As Marian's checkpoints are published: sentencepiece files and a vocabulary."""
    task = own(tmp_path, "marian")
    (tmp_path / "model" / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("source.spm", "target.spm"):
        (tmp_path / "model" / name).write_bytes(b"")
    (tmp_path / "model" / "vocab.json").write_text(json.dumps({"<unk>": 0, "</s>": 1}))
    with pytest.raises(InvalidSetting, match="seq2seq: model: .*tokenizer"):
        TASKS.build("seq2seq", task.args()).check()

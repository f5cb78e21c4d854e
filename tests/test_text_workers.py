"""A search worker on another machine: it gets the task and its data, and none of their files."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest
import text_examples

from trainables.tasks import TASKS

WORKER = """
import pickle, sys

from trainables.attempt import Attempt
from trainables.record import Choice, LayerRule, Status, Trial


class Shelf:
    def write_bytes(self, name, data):
        pass


with open(sys.argv[1], "rb") as file:
    sent = pickle.load(file)
rules = (LayerRule((Choice("rtn"),), adapter=Choice("lora"), rank=2),)
for task, data in sent:
    training = {"optimizer": Choice("adam"), "lr": 1e-3, "batch_size": 64, "epochs": 1}
    attempt = Attempt(task, data, Trial(Choice(task.name), rules, **training), Shelf())
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    print(task.name)
"""


def decoder(folder):
    """Settings of causal_lm with a model from a folder."""
    import transformers

    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**text_examples.WIDTHS, tie_word_embeddings=True)
    )
    lines = text_examples.causal_lm(folder)["data"]
    return {"model": str(text_examples.save(model, folder / "llama")), "data": lines, "block": 16}


@pytest.mark.slow
def test_a_worker_trains_without_any_file(tmp_path):
    files, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    files.mkdir()
    elsewhere.mkdir()
    tasks = [
        TASKS.build("text_classification", text_examples.text_classification(files)),
        TASKS.build("product_reviews", text_examples.product_reviews(files)),
        TASKS.build("causal_lm", decoder(files)),
    ]
    assert tasks[1].balance
    for task in tasks:
        task.check()
    sent = pickle.dumps([(task, task.prepare(0)) for task in tasks])
    (elsewhere / "sent").write_bytes(sent)
    shutil.rmtree(files)
    environment = {**os.environ, "PARETUNE_CACHE": str(elsewhere / "cache")}
    command = [sys.executable, "-c", WORKER, "sent"]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command,
        cwd=elsewhere,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [task.name for task in tasks]

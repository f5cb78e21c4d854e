"""Every exporter keeps its contract, and the command chooses, writes, compares and refuses."""

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from networks import ADAPTERS, METHODS
from synthetic_study import record, size, trial

from compression.artifact import load, serialize
from compression.export import EXPORTERS, Loader, Source
from compression.export.base import DENSE
from compression.layers import packed_of
from compression.model import Rule, compress_model, finalize
from compression.registry import InvalidSetting
from compression.rules import layers_of
from study import log
from study.events import Ended, Frozen, Member, Opened, Suggested
from study.export import main
from study.front.exporting import agreement
from study.front.runtimes import runs
from study.store.files import FILE, artifact
from study.store.storage import Storage
from trainables.record import Choice
from trainables.tasks import TASKS

transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(240)  # tracing takes seconds, on a busy machine a minute

NEAR = 1e-5
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
SCRIPT = """
import json, torch, transformers, mlflow
from mlflow.pyfunc.model import PythonModel
from compression import load

class Tiny(PythonModel):
    def load_context(self, context):
        config = transformers.BertConfig(**context.model_config)
        model = transformers.BertForSequenceClassification(config)
        self.model = load(context.artifacts["model"], model)

    def predict(self, context, model_input, params=None):
        tensors = {name: torch.from_numpy(array) for name, array in model_input.items()}
        with torch.inference_mode():
            return self.model(**tensors).logits.numpy()

mlflow.models.set_model(Tiny())
"""
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}


def built(name, **settings):
    return METHODS.build(name, settings)


def architecture():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    return transformers.BertForSequenceClassification(config).eval()


def batch(count, length):
    draw = torch.Generator().manual_seed(count)
    tokens = torch.randint(SIZES["vocab_size"], (count, length), generator=draw)
    mask = torch.ones_like(tokens)
    mask[-1, length // 2 :] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def logits(model, inputs):
    return model(**inputs).logits


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A transformer whose layers are on grids of each kind, adapted, of another form, and dense."""
    rules = [
        Rule("*query", (built("rtn", bits=4),)),
        Rule("*key", (built("rtn", bits=8, mode="asymmetric"),)),
        Rule("*value", (built("rtn", bits=3, group_size=16),)),
        Rule("*intermediate*", (built("rtn", bits=4),), adapter=ADAPTERS.build("lora"), rank=2),
        Rule("*pooler*", (built("int1"),)),
        Rule("classifier", (built("ternary"),)),
    ]
    targets = [rule.pattern for rule in rules]
    model = compress_model(architecture(), rules, targets, generator=torch.Generator())
    folder = tmp_path_factory.mktemp("source")
    (folder / "packed").write_bytes(packed := serialize(finalize(model)))
    (folder / "tiny.py").write_text(SCRIPT)
    loader = Loader(folder / "tiny.py", SIZES)
    loaded = load(str(folder / "packed"), architecture())
    return Source(loaded, batch(2, 6), packed, logits, loader)


@pytest.fixture(scope="module", params=list(EXPORTERS))
def written(request, source, tmp_path_factory):
    exporter = EXPORTERS.build(request.param)
    return exporter, exporter.write(source, tmp_path_factory.mktemp(request.param))


def test_what_was_written_computes_what_we_do(source, written):
    exporter, exported = written
    assert not list(exporter.refusals(source))
    run = exporter.opened(exported.path, source)
    for count, length in ((2, 6), (5, 9), (1, 4)):
        inputs = batch(count, length)
        with torch.inference_mode():
            ours = logits(source.model, inputs)
        assert (run(inputs) - ours).abs().max() <= NEAR * ours.abs().max()


def test_each_layer_is_listed_with_its_form(source, written):
    exporter, exported = written
    assert set(exported.layers) == set(layers_of(source.model))
    assert exported.layers == exporter.layers(source.model)
    packed = {name for name, form in exported.layers.items() if form != DENSE}
    assert packed
    compressed = {n for n, layer in layers_of(source.model).items() if packed_of(layer)}
    assert packed <= compressed


def test_nothing_that_was_written_is_pickled(written):
    path = written[1].path
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert file.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin")
        assert not file.read_bytes()[:4].startswith(PICKLES), file


def test_a_runtime_that_is_absent_names_the_extra(written, monkeypatch):
    exporter = written[0]
    find = importlib.util.find_spec
    missing = set(exporter.modules)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in missing else find(n))
    with pytest.raises(InvalidSetting) as caught:
        exporter.check()
    assert len(caught.value.errors) == len(missing)
    assert all("pip install 'paretune[export]'" in error for error in caught.value.errors)


def test_a_checkpoint_says_which_layers_are_packed_and_which_are_not(source, tmp_path):
    exported = EXPORTERS.build("compressed_tensors").write(source, tmp_path)
    config = json.loads((exported.path / "config.json").read_text())["quantization_config"]
    named = [name for group in config["config_groups"].values() for name in group["targets"]]
    assert config["format"] == "mixed-precision"
    assert {name for name, form in exported.layers.items() if form != DENSE} == set(named)
    assert set(config["ignore"]) == set(exported.layers) - set(named)
    assert exported.layers["bert.encoder.layer.0.intermediate.dense"] == DENSE  # an adapter
    assert exported.layers["bert.pooler.dense"] == DENSE  # half a step is no zero point


def test_a_checkpoint_is_of_models_of_transformers_alone():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4))
    exporter = EXPORTERS.build("compressed_tensors")
    (text,) = exporter.refusals(Source(network, torch.zeros(1, 4), b""))
    assert text == "compressed-tensors: takes models of transformers; this one is a Sequential"
    assert set(exporter.layers(network).values()) == {DENSE}


def test_every_runtime_is_asked_for_every_method():
    found = {(one.method, one.runtime): one.packed for one in runs()}
    assert {runtime for _, runtime in found} == set(EXPORTERS)
    assert set(found["rtn", "onnx"]) == {"Linear", "Conv2d", "Embedding"}
    assert found["rtn", "compressed_tensors"] == {"Linear": "pack-quantized 4 bits"}
    assert found["magnitude", "onnx"] == {}
    assert all(found[method, "pyfunc"] for method, _ in found)


TASK, OTHER = Choice("digits"), Choice("digits", {"network": "cnn"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of one trial whose file is really of its task; and one whose file is of another."""
    root = tmp_path_factory.mktemp("studies")
    task = TASKS.build(TASK.name, TASK.args)
    model = compress_model(task.architecture(), [Rule("*", (built("rtn", bits=4),))], ["*"])
    packed = serialize(model)
    for name, of in (("good", TASK), ("other", OTHER)):
        _study(Storage.open(root / name), of, packed)
    return root


def _study(storage, task, packed):
    asked = replace(trial(Choice("rtn"), adapter="none"), task=task)
    made = record(asked, size(4.0), 0.95, sha256=hashlib.sha256(packed).hexdigest())
    events = [
        Opened(1.0, "id"),
        Suggested(0, "search", {}, made.trial, made.trial_id),
        Ended(0, made.trial_id, made, 2.0),
        Frozen(3.0, (Member(made.trial_id, (made.trial_id,)),)),
    ]
    storage.write_bytes(log.FILE, b"".join(map(log.to_line, events)))
    fraction = {"name": "val_accuracy", "direction": "maximize", "unit": "fraction"}
    storage.write_text(FILE, json.dumps({"objectives": [fraction], "seed": 0}))
    storage.write_bytes(artifact(made.trial_id), packed)


def command(folder, *options):
    return CliRunner().invoke(main, [*options, "--storage", str(folder)])


def test_a_point_is_written_compared_and_described(folder, tmp_path):
    options = ("good", "--max-bytes", "1MB", "--to", "onnx", "--output", str(tmp_path))
    result = command(folder, *options, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout.splitlines()[-1])
    assert card["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert card["packed_bytes"] < card["bytes"] < card["dense_bytes"]
    assert card["compared"]["equal_predictions"] == 1.0
    assert card["compared"]["largest_difference"] <= NEAR * card["compared"]["largest_output"]
    assert card["runs_in"]["onnx"] == "3 of 3 layers packed"
    kept = json.loads((tmp_path / "card.json").read_text())
    assert {**kept, "path": card["path"]} == card


SERVED = """
import sys, json, numpy, mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
import compression
outputs = model.predict(numpy.ones((2, 1, 8, 8), "float32"))
print(json.dumps([compression.__file__, outputs.tolist()]))
"""


@pytest.mark.slow
def test_the_mlflow_model_runs_in_a_process_of_its_own_on_the_code_in_it(folder, tmp_path):
    options = ("good", "--max-bytes", "1MB", "--to", "pyfunc", "--output", str(tmp_path))
    path = Path(json.loads(command(folder, *options, "--json").stdout)["path"])
    run = subprocess.run(
        [sys.executable, "-c", SERVED, str(path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    file, outputs = json.loads(run.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(path / "code")
    task = TASKS.build(TASK.name, TASK.args)
    model = load(str(path / "artifacts" / "model.safetensors"), task.architecture())
    with torch.inference_mode():
        ours = model(torch.ones(2, 1, 8, 8))
    assert torch.equal(torch.tensor(outputs), ours)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("good", "--to", "onx"), "unknown export target 'onx'; did you mean 'onnx'?"),
        (("good",), "--to: say for what: compressed-tensors, onnx, pyfunc"),
        (
            ("--to", "onnx"),
            "say which model: a trial's id, or a study with a bound, --certified or --knee",
        ),
        (
            ("good", "--to", "onnx"),
            "'good' is a study: say which point of it: a bound, --certified or --knee",
        ),
        (("none", "--to", "onnx"), "trial: no 'none' with a record"),
        (("good", "--to", "onnx", "--opset", "17"), "an integer from 18 to 25, got 17"),
        (("good", "--to", "pyfunc", "--opset", "21"), "unknown knob 'opset'"),
        (("good", "--to", "onnx", "--knee", "--max-bytes", "1"), "--knee: goes without bounds"),
        (("good", "--to", "compressed-tensors", "--max-bytes", "1MB"), "this one is a Sequential"),
        (("other", "--to", "onnx", "--max-bytes", "1MB"), "layer '1' is a BatchNorm2d"),
    ],
)
def test_wrong_input_is_told_in_one_line(folder, options, text, tmp_path):
    result = command(folder, *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert text in line
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_users_is_written_over(folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious.txt").write_text("mine")
    options = ("good", "--max-bytes", "1MB", "--to", "pyfunc", "--output", str(tmp_path))
    result = command(folder, *options)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "precious.txt"]


@pytest.mark.parametrize(("wrong", "apart"), [(math.nan, math.nan), (0.5, 0.5), (0.0, 0.0)])
def test_outputs_that_differ_anywhere_are_not_close(wrong, apart, monkeypatch):
    task = TASKS.build(TASK.name, TASK.args)
    monkeypatch.setattr(type(task), "eval_batch_size", 100)
    data = task.prepare(0)
    source = Source(data.model, data.validation.inputs(torch.arange(1)), b"", task.forward, None)
    seen = []

    def run(inputs):
        outputs = task.forward(data.model, inputs).detach()
        seen.append(len(outputs))
        if len(seen) == 2:  # not in the first batch
            outputs[-1, -1] += wrong
        return outputs

    found = agreement(task, source, run, data.validation, len(data.validation))
    assert len(seen) >= 2
    assert found.apart == pytest.approx(apart, nan_ok=True)
    assert found.close == (wrong == 0.0)


def test_a_file_that_is_gone_or_another_is_told(folder, tmp_path):
    storage = Storage.open(tmp_path / "broken")
    _study(storage, TASK, b"whatever")
    options = ("broken", "--max-bytes", "1MB", "--to", "onnx")
    (name,) = storage.list("artifacts")
    storage.write_bytes(f"artifacts/{name}", b"changed")
    assert "is not the file that was measured" in command(tmp_path, *options).stderr
    storage.delete(f"artifacts/{name}")
    result = command(tmp_path, *options)
    assert result.exit_code == 2
    assert "is gone" in result.stderr

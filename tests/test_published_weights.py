"""Files as libraries publish them, and one model of each torchvision family."""

import hashlib
import re

import pytest
import safetensors.torch
import torch
import torchvision

from trainables.models import vision as vision_models
from trainables.models.state import state_hash

FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16",
)  # fmt: skip
SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_takes_its_weights_from_a_file_and_trains(name, tmp_path):
    made = vision_models.architecture(name, 3)
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.mul_(0.9)
    safetensors.torch.save_file(made.state_dict(), tmp_path / "w.safetensors")
    state = vision_models.read_state(tmp_path / "w.safetensors")
    model = vision_models.load(vision_models.architecture(name, 3), state, "weights")
    assert state_hash(model) == state_hash(made)
    images = torch.randn(2, 3, *[SIZES.get(name, 64)] * 2)
    with torch.no_grad():
        assert torch.equal(model(images), made(images))
    outputs = model.train()(images)
    torch.nn.functional.cross_entropy(outputs, torch.tensor([0, 2])).backward()
    assert all(p.grad is not None for p in model.parameters())


def as_published(name, state):
    """The state with the names that torchvision's file of a DenseNet has."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in state.items()
    }


def test_a_densenet_is_loaded_by_its_published_names():
    made = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3)
    torch.nn.init.normal_(made.features.denseblock1.denselayer2.conv1.weight)
    state = as_published("densenet121", made.state_dict())
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in state
    assert len(state.keys() - made.state_dict().keys()) == 4 * 2 * 6  # counters among them
    empty = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3)
    vision_models.load(empty, state, "weights")
    assert state_hash(empty) == state_hash(made)


def published(monkeypatch, tmp_path, state):
    """Have torchvision publish this state."""
    made = tmp_path / "made.pth"
    torch.save(state, made)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()[:8]
    (tmp_path / "checkpoints").mkdir()
    made.rename(tmp_path / "checkpoints" / f"net-{digest}.pth")
    weights = type("Weights", (), {"url": f"http://127.0.0.1:1/net-{digest}.pth"})
    monkeypatch.setattr(vision_models, "_torchvision_weights", lambda name: weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "mnasnet0_5"])
def test_published_files_fit_their_architecture(monkeypatch, tmp_path, name):
    more = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    state = torchvision.models.get_model(name, weights=None, num_classes=4, **more).state_dict()
    published(monkeypatch, tmp_path, as_published(name, state))
    model = vision_models.architecture(name, 4)
    vision_models.load(model, vision_models.library_state(name), "library")
    own = model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_auxiliary_heads_are_left_out():
    for name in ("googlenet", "inception_v3"):
        with torch.device("meta"):
            names = dict(vision_models._bare(name, 3).named_modules())
        assert not [n for n in names if n.startswith(("aux", "Aux"))]


def test_a_vision_transformer_is_of_the_size_of_its_weights():
    with torch.device("meta"):
        model = vision_models._bare("vit_h_14", 0)
    size = vision_models.preprocessing("vit_h_14").size
    assert size == (518, 518)
    assert vision_models.takes(model, size) is None


def test_library_weights_put_there_by_hand_are_read(monkeypatch, tmp_path):
    state = vision_models.architecture("squeezenet1_1").state_dict()
    published(monkeypatch, tmp_path, state)
    found = vision_models.library_state("squeezenet1_1")
    assert all(torch.equal(found[key], state[key]) for key in state)

"""Classifiers by name: their preprocessing is the library's, their weights fit or say why not."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model_weights

from compression.registry import InvalidSetting, UnknownName
from trainables.data.downloads import DownloadError
from trainables.data.preprocessing import Preprocessing
from trainables.models import vision as vision_models

LITE = "timm/tf_efficientnet_lite0"


def photo(width=300, height=220, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (11, 15, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet81", "did you mean 'resnet18'?"),
        ("timm/tf_eficientnet_lite0", f"did you mean '{LITE}'?"),
        ("tf_efficientnet_lite0", f"did you mean '{LITE}'?"),
        ("zzz", "known: alexnet, "),
    ],
)
def test_an_unknown_name_gets_the_closest(name, hint):
    with pytest.raises(UnknownName) as error:
        vision_models.check_name(name)
    assert f"unknown model '{name}'; {hint}" in str(error.value)
    assert len(str(error.value)) < 2000


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'paretune\[timm\]'"):
        vision_models.check_name("timm/resnet18")
    vision_models.check_name("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_the_random_start_is_the_same_each_time_and_leaves_no_trace(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (vision_models.architecture(name, 7).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one["fc.weight"].shape == (7, 512)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "mobilenet_v3_small"])
def test_torchvision_prepares_the_image(name):
    expected = get_model_weights(name).DEFAULT.transforms()(photo())
    found = vision_models.preprocessing(name)
    assert torch.equal(found.evaluate(photo()), expected)
    assert found.size == tuple(expected.shape[1:])


@pytest.mark.parametrize("name", [LITE, "timm/resnet18"])
def test_timm_prepares_the_image(name):
    config = resolve_data_config(timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict())
    expected = create_transform(**config)(photo())
    found = vision_models.preprocessing(name)
    assert torch.equal(found.evaluate(photo()), expected)
    assert (found.mean, found.std) == (tuple(config["mean"]), tuple(config["std"]))


@pytest.mark.parametrize("name", ["resnet18", LITE])
def test_another_size_is_another_preparation(name):
    usual, small = vision_models.preprocessing(name), vision_models.preprocessing(name, 64)
    assert small.evaluate(photo()).shape == (3, 64, 64)
    assert usual.spec != small.spec
    assert small.spec == vision_models.preprocessing(name, 64).spec


@pytest.mark.parametrize("name", ["resnet18", LITE])
def test_images_are_prepared_while_another_thread_traces_a_model(name):
    prepared = vision_models.preprocessing(name, 32)
    expected = prepared.evaluate(photo())

    class Traced(torch.nn.Module):
        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:  # as if a batch were decoded in the meantime
                assert torch.equal(pool.submit(prepared.evaluate, photo()).result(), expected)
            return x + 1

    torch.fx.symbolic_trace(Traced())


def test_distorted_views_are_crops_normalised_alike():
    def never(image):
        raise AssertionError

    plain = Preprocessing(never, (48, 40), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    views = [plain.distort(photo(), (0, view, 5)) for view in (1, 2)]
    assert torch.equal(views[0], plain.distort(photo(), (0, 1, 5)))
    assert not torch.equal(*views)
    assert views[0].shape == (3, 48, 40)
    flat = Image.new("RGB", (90, 70), (255, 0, 51))
    view = plain.distort(flat, (0, 1, 0))
    expected = torch.tensor([0.5 / 0.2, -0.4 / 0.3, (0.2 - 0.3) / 0.4])
    assert torch.allclose(view, expected[:, None, None].expand_as(view), atol=1e-6)


def test_half_of_the_views_are_flipped():
    left_to_right = Image.linear_gradient("L").rotate(90).convert("RGB")
    plain = Preprocessing(None, (16, 16), (0.0,) * 3, (1.0,) * 3, "bilinear")
    views = [plain.distort(left_to_right, (0, 1, i)) for i in range(200)]
    flipped = sum(bool(view[0, 8, 0] > view[0, 8, -1]) for view in views)
    assert 70 < flipped < 130


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", LITE])
def test_the_head_is_what_changes_with_the_classes(name):
    state = vision_models.architecture(name, 13).state_dict()
    assert vision_models.head(name, state) == 13
    assert vision_models.own_classes(name) == 1000
    assert vision_models.head(name, {}) == 0


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "checkpoint.pth"])
def test_a_file_of_weights_comes_back(tmp_path, suffix):
    state = vision_models.architecture("resnet18", 5).state_dict()
    file = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, file)
    elif suffix == "pth":
        torch.save(state, file)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file)
    found = vision_models.read_state(file)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


class Code:
    """What a pickle must not be able to make."""


@pytest.mark.parametrize("kind", ["code", "no tensors", "damaged", "cut", "absent"])
def test_a_file_that_holds_no_weights_is_refused_in_one_sentence(tmp_path, kind):
    file = tmp_path / ("w.safetensors" if kind == "cut" else "w.pth")
    if kind in ("code", "no tensors"):
        torch.save(Code() if kind == "code" else {"epoch": 3}, file)
    elif kind in ("damaged", "cut"):
        file.write_bytes(b"not weights at all")
    with pytest.raises(InvalidSetting) as error:
        vision_models.read_state(file)
    (sentence,) = error.value.errors
    assert str(file) in sentence
    assert "\n" not in sentence


def test_all_that_does_not_fit_is_listed_at_once():
    model = vision_models.architecture("resnet18", 5)
    state = vision_models.architecture("resnet18", 9).state_dict()
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    state["extra.weight"] = torch.zeros(1)
    del state["bn1.bias"]
    del state["bn1.num_batches_tracked"]  # which older files lack
    with pytest.raises(InvalidSetting) as error:
        vision_models.load(model, state, "weights")
    assert error.value.errors == (
        "weights: 'bn1.bias' is missing",
        "weights: the model has no 'extra.weight'",
        "weights: 'conv1.weight' is 64 x 3 x 3 x 3, the model's is 64 x 3 x 7 x 7",
        "weights: 'fc.weight' is 9 x 512, the model's is 5 x 512",
        "weights: 'fc.bias' is 9, the model's is 5",
    )


def test_weights_of_other_classes_leave_the_head_as_it_is():
    model = vision_models.architecture("resnet18", 5)
    head = model.fc.weight.clone()
    state = vision_models.architecture("resnet18", 9).state_dict()
    state["conv1.weight"] = torch.ones(64, 3, 7, 7)
    vision_models.load_body("resnet18", model, state, "weights")
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.conv1.weight, torch.ones(64, 3, 7, 7))


def test_library_weights_without_a_network_say_what_to_fetch(monkeypatch, tmp_path):
    url = get_model_weights("resnet18").DEFAULT.url.replace(
        "https://download.pytorch.org", "http://127.0.0.1:1"
    )
    weights = type("Weights", (), {"url": url})
    monkeypatch.setattr(vision_models, "_torchvision_weights", lambda name: weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DownloadError) as error:
        vision_models.library_state("resnet18")
    target = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    expected = f"fetch {url} (sha256 f37072fd...) and put it at {target}"
    assert expected in str(error.value)


def test_timm_weights_go_through_timms_own_loading(monkeypatch, tmp_path):
    model = timm.create_model("test_resnet", pretrained=False)
    made = tmp_path / "model.safetensors"
    safetensors.torch.save_file(model.state_dict(), made)
    monkeypatch.setattr(vision_models, "hub_file", lambda repository, name: made)
    found = vision_models.library_state("timm/test_resnet")
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def test_sizes_that_a_model_does_not_take_are_found_without_computing():
    assert vision_models.takes(vision_models.architecture("resnet18", 3), (32, 32)) is None
    problem = vision_models.takes(vision_models.architecture("vit_b_16", 3), (32, 32))
    assert "Expected 224 but got 32" in problem


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_torchvision_classifier_is_built_and_prepared_for():
    for name in torchvision.models.list_models(module=torchvision.models):
        if any(size in name for size in ("_h_14", "_l_16", "_l_32", "_128gf", "101_64x4d")):
            continue  # gigabytes
        state = vision_models.architecture(name, 3).state_dict()
        assert vision_models.head(name, state) == 3
        prepared = vision_models.preprocessing(name)
        assert prepared.evaluate(photo()).shape[1:] == prepared.size

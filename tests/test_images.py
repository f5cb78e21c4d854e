"""Labelled images from folders, listings, Parquet files and published sets; splits of them."""

import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from image_helpers import PLAIN, _folder, _original, _own_cache, as_tensor, rgb, truncate  # noqa: F401
from PIL import Image

from compression.registry import InvalidSetting
from trainables.data import image_checks
from trainables.data.image_sets import ImageData
from trainables.data.images import divide, image_split
from trainables.models.vision import preprocessing


def test_a_folder_is_read_in_the_order_of_its_names(folder):
    found = ImageData(str(folder)).read()
    assert found.classes == ("class0", "class1", "class2")
    assert np.array_equal(found.labels, np.repeat([0, 1, 2], 40))
    assert np.array_equal(np.array(found.images.image(41)), rgb(folder / "class1/001.jpg"))


def test_class_folders_without_images_are_named(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("no image")
    with pytest.raises(InvalidSetting, match=r"no images of 2 classes \(a, b\) in"):
        ImageData(str(folder)).classes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no folder or file"),
        (lambda path: path.mkdir(), "has no folders in it"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(InvalidSetting, match=message):
        ImageData(str(tmp_path / "data")).classes()


def test_a_misspelt_set_gets_the_closest():
    with pytest.raises(InvalidSetting, match="did you mean 'cifar100'?"):
        ImageData("cifar_100").classes()


def test_few_damaged_images_are_left_out_and_named(folder, caplog):
    truncate(folder / "class1/003.jpg")
    with caplog.at_level(logging.WARNING):
        found = ImageData(str(folder)).read()
    assert len(found.images) == 119
    assert "class1/003.jpg" not in found.images.paths
    assert "1 image (class1/003.jpg) of 120" in caplog.text
    assert "left out" in caplog.text


def test_many_damaged_images_stop_it_named_and_counted(folder):
    for name in ("000", "001"):
        truncate(folder / f"class0/{name}.jpg")
    (folder / "class2/007.jpg").write_bytes(b"")
    with pytest.raises(InvalidSetting) as error:
        ImageData(str(folder)).read()
    names = "class0/000.jpg, class0/001.jpg, class2/007.jpg"
    expected = f"3 images ({names}) of 120 in '{folder}' unreadable, more than 1%"
    assert expected in str(error.value)


def test_an_image_that_vanished_is_named_in_one_line(folder):
    found = ImageData(str(folder)).read()
    gone = folder / "class0/003.jpg"
    gone.unlink()
    with pytest.raises(InvalidSetting) as error:
        image_split(found, PLAIN).inputs(torch.tensor([3]))
    sentence = f"data: the image '{gone.resolve()}' can't be read: No such file or directory"
    assert error.value.errors == (sentence,)


def test_a_link_to_nowhere_is_an_unreadable_image(folder, caplog):
    (folder / "class0/link.jpg").symlink_to(folder / "nowhere.jpg")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(ImageData(str(folder)).read().images) == 120
        assert "1 image (class0/link.jpg) of 121" in caplog.text
        assert "No such file" in caplog.text


def test_repeated_images_count_once(folder, caplog):
    shutil.copy(folder / "class0/000.jpg", folder / "class2/again.jpg")
    with caplog.at_level(logging.WARNING):
        found = ImageData(str(folder)).read()
    assert len(found.images) == 120
    assert "class2/again.jpg" in caplog.text


def test_images_are_read_once_and_again_when_they_change(folder, monkeypatch):
    read = []
    plain = image_checks.examine
    monkeypatch.setattr(image_checks, "examine", lambda data: (read.append(1), plain(data))[1])
    first = ImageData(str(folder)).read()
    assert len(read) == 120
    assert ImageData(str(folder)).read().hashes == first.hashes
    assert len(read) == 120
    shutil.copy(folder / "class0/000.jpg", folder / "class0/001.jpg")
    assert len(ImageData(str(folder)).read().images) == 119
    assert len(read) == 121


def test_a_damaged_ledger_is_made_anew(folder, tmp_path):
    first = ImageData(str(folder)).read()
    cache = image_checks.cache.folder() / "images"
    (ledger,) = cache.glob("*.json")
    ledger.write_text("{")
    assert ImageData(str(folder)).read().hashes == first.hashes


def test_the_digest_is_of_content_not_of_the_place(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    one, two = (image_split(ImageData(str(f)).read(), PLAIN) for f in (folder, moved))
    assert one.digest == two.digest
    Image.new("RGB", (40, 40), "red").save(moved / "class0/000.jpg")
    changed = image_split(ImageData(str(moved)).read(), PLAIN)
    assert changed.digest != one.digest
    others = [preprocessing("resnet18"), preprocessing("resnet18", 64)]
    digests = {image_split(ImageData(str(folder)).read(), p).digest for p in (PLAIN, *others)}
    assert len(digests) == 3


def test_a_split_is_small_to_send_and_tells_nothing_of_the_others(folder):
    found = ImageData(str(folder)).read()
    rows = divide(found.labels, (0.8, 0.1, 0.1), seed=0)
    train, _, test = (image_split(found.take(part), PLAIN) for part in rows)
    sent = pickle.dumps(train)
    assert len(sent) < 10_000
    assert not any(path.encode() in sent for path in test.images.paths)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_the_images_however_many_threads(folder, threads):
    split = image_split(ImageData(str(folder)).read(), PLAIN)
    rows = torch.tensor([77, 3, 41])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = split.batch(rows)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.labels, torch.tensor([1, 0, 1]))
    assert torch.equal(found.inputs[0], as_tensor(rgb(folder / "class1/037.jpg")))
    assert torch.equal(found.inputs[1], as_tensor(rgb(folder / "class0/003.jpg")))


def test_views_are_seeded_and_the_first_is_what_is_scored(folder):
    found = ImageData(str(folder)).read()
    split, again, other = (image_split(found, PLAIN, views=3, seed=s) for s in (0, 0, 1))
    plain = image_split(found, PLAIN)
    rows = torch.tensor([5, 5 + 120, 5 + 240])
    views = split.inputs(rows)
    assert torch.equal(views, again.inputs(rows))
    assert torch.equal(views[0], plain.inputs(rows[:1])[0])
    assert len({view.numpy().tobytes() for view in views}) == 3
    assert not torch.equal(views[1], other.inputs(rows)[1])
    assert torch.equal(split.batch(rows).labels, split.labels[[5, 5, 5]])
    assert len({split.digest, other.digest, plain.digest}) == 3
    assert len(split) == 120


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_parts_are_disjoint_of_the_size_asked_and_in_proportion(seed, limit):
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    parts = divide(labels, (0.8, 0.1, 0.1), seed, limit)
    n = limit or 1000
    assert [len(part) for part in parts] == [n * 8 // 10, n // 10, n // 10]
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == n
    for part in parts:
        shares = np.bincount(labels[part], minlength=3) / len(part)
        assert np.abs(shares - [0.5, 0.3, 0.2]).max() <= 2 / len(part)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(parts, divide(labels, (0.8, 0.1, 0.1), seed, limit), strict=True)
    )

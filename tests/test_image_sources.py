"""Images listed in files, inside Parquet files, and of published sets."""

import gzip
import hashlib
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from image_helpers import PLAIN, _folder, _original, _own_cache, parquet, truncate  # noqa: F401
from PIL import Image

from compression.registry import InvalidSetting
from trainables.data import image_sources
from trainables.data.downloads import DownloadError
from trainables.data.image_sets import ImageData
from trainables.data.images import image_split


def flat(folder, tmp_path):
    """The folder's images in one folder, and their names and classes."""
    (tmp_path / "flat").mkdir()
    files = sorted(folder.rglob("*.jpg"))
    for file in files:
        shutil.copy(file, tmp_path / "flat" / f"{file.parent.name}_{file.name}")
    return [(f"{f.parent.name}_{f.name}", f.parent.name) for f in files]


@pytest.mark.parametrize("style", ["file,label", "file label", "heading", "labels"])
def test_a_flat_folder_with_a_listing(folder, tmp_path, style):
    named = flat(folder, tmp_path)
    lines = {
        "file,label": [f"{name},{label}" for name, label in reversed(named)],
        "file label": [f"{name} {label[5:]}" for name, label in named],
        "heading": ["ImageId,Class", *(f"{name},{label}" for name, label in named)],
        "labels": [label[5:] for _, label in named],
    }[style]
    listing = tmp_path / "labels.txt"
    listing.write_text("\n".join(lines) + "\n")
    found = ImageData(str(tmp_path / "flat"), listing=str(listing)).read()
    assert np.array_equal(found.labels, np.repeat([0, 1, 2], 40))
    assert len(found.classes) == 3


def test_what_a_listing_lacks_is_named_all_at_once(folder, tmp_path):
    named = flat(folder, tmp_path)
    listing = tmp_path / "labels.csv"
    listing.write_text("\n".join([*(f"{n},{c}" for n, c in named[2:]), "gone.jpg,class0"]))
    with pytest.raises(InvalidSetting) as error:
        ImageData(str(tmp_path / "flat"), listing=str(listing)).classes()
    assert len(error.value.errors) == 2
    assert "1 file (gone.jpg) not in" in str(error.value)
    assert "no label of 2 images (class0_000.jpg, class0_001.jpg)" in str(error.value)


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_file_of_encoded_images(folder, tmp_path, struct):
    file = parquet(folder, tmp_path / "images.parquet", struct)
    one, two = ImageData(str(folder)).read(), ImageData(str(file)).read()
    assert np.array_equal(one.labels, two.labels)
    assert one.hashes == two.hashes
    splits = [image_split(found, PLAIN) for found in (one, two)]
    assert splits[0].digest == splits[1].digest
    rows = torch.arange(0, 120, 7)
    assert torch.equal(*(split.inputs(rows) for split in splits))
    assert len(pickle.dumps(splits[1])) < 10_000


def test_labels_of_a_parquet_file_may_be_names(folder, tmp_path):
    labels = ["cat"] * 40 + ["ant"] * 40 + ["bee"] * 40
    found = ImageData(str(parquet(folder, tmp_path / "x.parquet", labels=labels))).read()
    assert found.classes == ("ant", "bee", "cat")
    assert np.array_equal(found.labels, np.repeat([2, 0, 1], 40))


def test_a_parquet_file_with_wrong_columns_or_labels(folder, tmp_path):
    file = parquet(folder, tmp_path / "x.parquet")
    with pytest.raises(InvalidSetting) as error:
        ImageData(str(file), image_column="img", label_column="y").classes()
    assert [e.split(" in ")[0] for e in error.value.errors] == [
        "data: no column 'img'",
        "data: no column 'y'",
    ]
    assert "there: image, label" in str(error.value)
    parquet(folder, file, labels=[-1] * 2 + [0] * 118)
    with pytest.raises(InvalidSetting, match=r"labels below 0 of 2 images \(row 0, row 1\)"):
        ImageData(str(file)).classes()
    parquet(folder, file, labels=[None] * 3 + [0] * 117)
    with pytest.raises(InvalidSetting, match="no label of 3 images"):
        ImageData(str(file)).classes()
    file.write_bytes(b"PAR1")
    with pytest.raises(InvalidSetting, match="can't be read as Parquet"):
        ImageData(str(file)).classes()


def test_damaged_rows_of_a_parquet_file_are_counted(folder, tmp_path):
    for name in ("000", "001", "002"):
        truncate(folder / f"class0/{name}.jpg")
    file = parquet(folder, tmp_path / "x.parquet")
    with pytest.raises(
        InvalidSetting, match=r"3 images \(row 0, row 1, row 2\) of 120 in .*x.parq"
    ):
        ImageData(str(file)).read()


def mnist_files(raw, counts=(60, 20)):
    """IDX files as MNIST's, with md5s as torchvision lists them."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in zip(("train", "t10k"), counts, strict=True):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images = struct.pack(">IIII", 0x803, n, 28, 28) + pixels.tobytes()
        labels = struct.pack(">II", 0x801, n) + bytes(i % 10 for i in range(n))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


@pytest.mark.parametrize("packed", [False, True])
def test_a_published_set_from_a_folder_of_ones_own(tmp_path, packed, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    mnist_files(raw)
    if packed:
        from torchvision.datasets import FashionMNIST

        resources = []
        for file in sorted(raw.iterdir()):
            data = gzip.compress(file.read_bytes(), mtime=0)
            file.with_suffix(".gz").write_bytes(data)
            file.unlink()
            resources.append((f"{file.name}.gz", hashlib.md5(data).hexdigest()))
        monkeypatch.setattr(FashionMNIST, "resources", resources)
    found = ImageData("fashion_mnist", root=str(tmp_path)).read()
    assert len(found.images) == 80
    assert found.classes == tuple("0123456789")
    split = image_split(found, PLAIN)
    assert split.inputs(torch.tensor([70])).shape == (1, 3, 28, 28)
    assert len(pickle.dumps(split)) < 10_000
    assert (
        image_split(ImageData("fashion_mnist", root=str(tmp_path)).read(), PLAIN).digest
        == split.digest
    )


def test_a_published_set_out_of_reach_says_what_to_fetch(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    with pytest.raises(DownloadError) as error:
        ImageData("cifar10", root=str(tmp_path)).read()
    target = tmp_path / "cifar-10-python.tar.gz"
    assert f"(md5 {CIFAR10.tgz_md5}) and put it at {target}" in str(error.value)


def test_suffixes_are_those_that_pillow_reads():
    known = Image.registered_extensions()
    assert set(image_sources.SUFFIXES) <= set(known)

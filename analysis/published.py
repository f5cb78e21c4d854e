"""Points that others published, and which of them may be drawn on a study's own axes.

A study is read as saying of itself what `published.csv` says of a point: model, data and split. A
point is comparable only where all three are the same words, the metric is the study's and its ratio
is of the kind that is drawn; what is not stated equals nothing.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from analysis.load import StudyDataError
from trainables.record import Objective, RecordError, Subject, from_json

__all__ = [
    "COUNTS",
    "KINDS",
    "SYSTEMS",
    "UNCOMPRESSED",
    "Placed",
    "PublishedPoint",
    "System",
    "asked_systems",
    "check_systems",
    "exported",
    "panels",
    "parse_points",
    "placed",
    "published_points",
    "published_score",
    "subject_of",
    "why_not",
]

FILE = "published.csv"
COLUMNS = (
    *("system", "source", "point", "series", "model", "data", "split"),
    *("metric", "value", "ratio_kind", "ratio", "note"),
)
# What each kind of ratio counts, before over after. One is a size axis of a report if named so.
KINDS = {
    "nominal_ratio": "values of the compressed layers, in bits",
    "linear_values": "values of the linear layers",
    "parameters": "parameters of the model",
    "flops": "FLOPs of the model",
}
COUNTS = {"bleu": "BLEU", "chrf": "chrF"}  # scores from 0 to 100 that are no percentages
UNCOMPRESSED = "not compressed"  # the series of dense models


@dataclass(frozen=True)
class System:
    """A published system: how `published.csv` names it, and what a study of it here takes."""

    title: str
    needs: str
    command: str


SYSTEMS: Mapping[str, System] = {
    "lora_compression": System(
        "000 LoRA-Compression",
        "ImageNet's 50,000 validation images, in a folder a class",
        "python -m study.run --config study/configs/lora_compression.yaml "
        "--set task.image_classification.data=/path/to/imagenet/val",
    ),
    "pc_lora": System(
        "002 PC-LoRA",
        "CIFAR-10 and the weights of ViT-B, or IMDb and those of BERT",
        "python -m study.run --config study/configs/pc_lora.yaml --set "
        "'task={image_classification: "
        "{model: timm/vit_base_patch16_224, weights: finetune, data: cifar10, layers: blocks.*}}' "
        "--set 'space.rank=[8, 16, 32, 64]'",
    ),
    "svd_lora": System(
        "003 SVDLoRA",
        "CIFAR-10 and a model that its authors do not name",
        "python -m study.run --config study/configs/svd_lora_share.yaml --set "
        "'task={image_classification: {model: resnet18, weights: finetune, data: cifar10}}'",
    ),
}


@dataclass(frozen=True)
class PublishedPoint:
    """A row of `published.csv`.

    ``system`` is a name of :data:`SYSTEMS`, ``value`` a fraction in [0, 1] or None where only a
    size was published, ``ratio`` how many times smaller, counted as ``ratio_kind`` says.
    """

    system: str
    source: str
    point: str
    series: str
    subject: Subject
    metric: str
    value: float | None
    ratio_kind: str
    ratio: float
    note: str = ""


@dataclass(frozen=True)
class Placed:
    """A point and why it can't stand on a study's axes; an empty reason is that it can."""

    point: PublishedPoint
    why_not: str


@cache
def published_points() -> tuple[PublishedPoint, ...]:
    """All that is shipped.

    Raises:
        StudyDataError: as :func:`parse_points`.
    """
    return parse_points(resources.files("analysis").joinpath(FILE).read_text(encoding="utf-8"))


def parse_points(text: str) -> tuple[PublishedPoint, ...]:
    """Points from CSV.

    Raises:
        StudyDataError: other columns, a row that says something impossible, or one said twice.
    """
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise StudyDataError(f"{FILE}: expected the columns {', '.join(COLUMNS)}")
    titles = {system.title: name for name, system in SYSTEMS.items()}
    found: dict[tuple[str, str, str], PublishedPoint] = {}
    for row in reader:
        try:
            point = _point(row, titles)
        except (KeyError, TypeError, ValueError) as error:
            raise StudyDataError(f"{FILE}:{reader.line_num}: {error}") from error
        key = (point.system, point.point, point.metric)
        if key in found:
            raise StudyDataError(f"{FILE}:{reader.line_num}: '{point.point}' is there twice")
        found[key] = point
    return tuple(found.values())


def _point(row: Mapping[str, str], titles: Mapping[str, str]) -> PublishedPoint:
    value, ratio = float(row["value"]) if row["value"] else None, float(row["ratio"])
    problems = {
        f"unknown system {row['system']!r}": row["system"] not in titles,
        f"unknown kind of ratio {row['ratio_kind']!r}": row["ratio_kind"] not in KINDS,
        f"ratio {ratio} is not above 0": not 0 < ratio < float("inf"),
        f"value {value} is no fraction": value is not None and not 0 <= value <= 1,
        "a metric and its value stand or lack together": bool(row["metric"]) != (value is not None),
        "source, point and series say what it is": not all(
            row[name] for name in ("source", "point", "series")
        ),
    }
    if said := [text for text, wrong in problems.items() if wrong]:
        raise ValueError("; ".join(said))
    return PublishedPoint(
        titles[row["system"]],
        row["source"],
        row["point"],
        row["series"],
        Subject(row["model"], row["data"], row["split"]),
        row["metric"],
        value,
        row["ratio_kind"],
        ratio,
        row["note"],
    )


def published_score(metric: str, value: float) -> str:
    """A value as such figures are written: ``96.17% accuracy``, ``30.07 BLEU``."""
    unit = "" if metric in COUNTS else "%"
    return f"{100 * value:.2f}{unit} {COUNTS.get(metric, metric)}"


def check_systems(names: Iterable[str]) -> tuple[str, ...]:
    """Names of :data:`SYSTEMS`, each once.

    Raises:
        StudyDataError: one that is none, with the closest.
    """
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if name not in SYSTEMS:
            close = difflib.get_close_matches(str(name), SYSTEMS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(SYSTEMS)}"
            raise StudyDataError(f"unknown published system '{name}'; {hint}")
    return unique


def asked_systems(info: Mapping[str, Any], instead: Iterable[str] | None) -> tuple[str, ...]:
    """The systems that a report shows: those named now, else those of the study's config.

    Raises:
        StudyDataError: as :func:`check_systems`.
    """
    config = info.get("config")
    named = config.get("published", ()) if isinstance(config, Mapping) else ()
    return check_systems(named if instead is None else instead)


def subject_of(info: Mapping[str, Any]) -> Subject:
    """What a `study.json` says its scores are of; nothing, if it is from before that was said.

    Raises:
        StudyDataError: it is said in other words than these three.
    """
    try:
        return from_json(Subject, info.get("subject", {}))
    except RecordError as error:
        raise StudyDataError(f"study.json: subject: {error}") from error


def why_not(point: PublishedPoint, subject: Subject, y: Objective, axis: str) -> str:
    """Why a point is not comparable: ``other model, data; split not stated``; '' if it is.

    Args:
        point: The published one.
        subject: What the study's scores are of.
        y: The study's metric; a fraction, as the published values are, or it is another one.
        axis: The size axis that is drawn.
    """
    if point.value is None:
        return "no score published"
    metric = y.name.removeprefix("val_") if y.is_fraction else f"{y.name} in {y.unit or 'units'}"
    pairs = {key: (getattr(point.subject, key), value) for key, value in vars(subject).items()}
    pairs |= {"metric": (point.metric, metric), "ratio": (point.ratio_kind, axis)}
    unsaid = [key for key, pair in pairs.items() if not all(pair)]
    other = [key for key, (a, b) in pairs.items() if key not in unsaid and a != b]
    parts = [f"other {', '.join(other)}" if other else "", ", ".join(unsaid)]
    return "; ".join(filter(None, [parts[0], f"{parts[1]} not stated" if unsaid else ""]))


def placed(systems: Iterable[str], subject: Subject, y: Objective, axis: str) -> tuple[Placed, ...]:
    """Every point of these systems, beside why it is not comparable with the study."""
    return tuple(
        Placed(point, why_not(point, subject, y, axis))
        for name in systems
        for point in published_points()
        if point.system == name
    )


def exported(published: Iterable[Placed]) -> str:
    """The points as CSV, in the columns of `published.csv`, and why each is not comparable."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, "comparable", "why_not"])
    for one in published:
        point = one.point
        writer.writerow(
            [
                SYSTEMS[point.system].title,
                *(point.source, point.point, point.series),
                *vars(point.subject).values(),
                *(point.metric, point.value, point.ratio_kind, point.ratio, point.note),
                *(not one.why_not, one.why_not),
            ]
        )
    return buffer.getvalue()


def panels(published: Iterable[Placed]) -> list[list[Placed]]:
    """The other points with a score, those of one panel together: alike in all that axes say."""
    found: dict[tuple[str, ...], list[Placed]] = {}
    for one in published:
        point = one.point
        if one.why_not and point.value is not None:
            key = (point.system, point.metric, point.ratio_kind, one.why_not)
            found.setdefault(key, []).append(one)
    return list(found.values())

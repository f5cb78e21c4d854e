"""The formats of a report and the file of each; the one list that commands and writers share."""

from __future__ import annotations

__all__ = ["COMPARED", "DEFAULT", "FORMATS"]

FORMATS = {
    "html": "report.html",
    "csv": "front.csv",
    "png": "front.png",
    "md": "summary.md",
    "json": "report.json",
    "svg": "front.svg",
    "parquet": "front.parquet",
}
"""By name; csv, parquet, png and svg write each chart too, in the folder `charts`."""

COMPARED = {
    "html": "comparison.html",
    "csv": "comparison.csv",
    "png": "comparison.png",
    "md": "comparison.md",
    "json": "comparison.json",
    "svg": "comparison.svg",
    "parquet": "comparison.parquet",
}
"""The same of a comparison of studies."""

DEFAULT = ("html", "csv", "png", "md")

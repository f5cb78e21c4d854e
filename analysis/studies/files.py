"""Writes a comparison of studies: `comparison.md`, its picture and the fronts as a table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pyarrow import fs

from analysis.charts.pictures import draw
from analysis.charts.tables import as_csv, as_parquet
from analysis.figure_files import png, svg
from analysis.formats import COMPARED, DEFAULT
from analysis.load import StudyData
from analysis.page.comparison import comparison
from analysis.page.document import COMPARISON, as_json, document
from analysis.report_files import put
from analysis.studies.comparison import Comparison
from analysis.studies.rivals import field
from analysis.studies.words import numbers, write

__all__ = ["write_comparison"]

MAKERS: Mapping[str, Callable[[Comparison], bytes]] = {
    "html": lambda made: document(comparison(made), COMPARISON),
    "csv": lambda made: as_csv(made.members()),
    "png": lambda made: png(draw(made.chart)),
    "md": lambda made: write(made).encode(),
    "json": lambda made: as_json(numbers(made)),
    "svg": lambda made: svg(draw(made.chart)),
    "parquet": lambda made: as_parquet(made.members()),
}


def write_comparison(
    studies: Sequence[StudyData],
    filesystem: fs.FileSystem,
    folder: str,
    y: str | None = None,
    normalise: bool = False,
    formats: Collection[str] = DEFAULT,
) -> Mapping[str, str]:
    """Write a comparison; every file is made before the first is written.

    Args:
        studies: Two or more.
        filesystem: Where to write.
        folder: Path on ``filesystem``; made if absent.
        y: As :func:`analysis.studies.rivals.field` takes it; so is ``normalise``.
        normalise: Against each one's own dense model.
        formats: Those of :data:`analysis.formats.COMPARED` are written.

    Returns:
        The paths by format.

    Raises:
        StudyDataError: The studies can't be compared, or the folder cannot be written.
    """
    made = Comparison(field(studies, y, normalise))
    kinds = [kind for kind in COMPARED if kind in formats]
    put(filesystem, folder, {COMPARED[kind]: MAKERS[kind](made) for kind in kinds}, "comparison")
    return {kind: f"{folder}/{COMPARED[kind]}" for kind in kinds}

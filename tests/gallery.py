"""Draws the pictures of docs/gallery.md, from studies that it runs.

    python tests/gallery.py [--studies FOLDER]

The studies of :data:`STUDIES` are run in FOLDER (a scratch folder by default; those that are there
already are taken as they are), about 5 minutes on 2 cores. Their reports' pictures, and the page in
Chromium, go to docs/gallery/, with so few colours and pixels that all stay readable and small.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import browsers
from PIL import Image

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
WIDTH, COLOURS = 1100, 192
RUNS = {
    f"{searcher}-{seed}": f"--trials 40 --seed {seed} --set searcher={searcher}"
    for searcher in ("forest", "random")
    for seed in (1, 2, 3)
}
STUDIES = {"digits": "", **RUNS}
"""By name, the options of ``python -m study.run``."""
CHARTS = ("curves", "rank", "map", "importance", "hypervolume")


def run(folder: Path, *words: str) -> None:
    """One of our commands, in a folder, with this checkout."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], cwd=folder, env=env, check=True)


def pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    """PNGs by name, of the studies in a folder."""
    report = folder / "results" / "digits" / "report"
    yield "front", (report / "front.png").read_bytes()
    for chart in CHARTS:
        yield chart, (report / "charts" / f"{chart}.png").read_bytes()
    yield "comparison", (folder / "compared" / "comparison.png").read_bytes()
    if reason := browsers.missing():
        print(f"the page is not drawn: {reason}", file=sys.stderr)
        return
    with browsers.browser() as started:
        for name, width in (("page", 1280), ("phone", 400)):
            with browsers.opened(started, report / "report.html", width) as tab:
                yield name, tab.screenshot()


def smaller(png: bytes) -> bytes:
    """The same picture, at most :data:`WIDTH` wide, in :data:`COLOURS` colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > WIDTH:
        size = (WIDTH, round(image.height * WIDTH / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # The default, median cut, merges colours that few pixels have: those of the points.
    few = image.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw(folder: Path) -> None:
    """Run what is not there, and write all pictures."""
    for name, options in STUDIES.items():
        if not (folder / "results" / name / "report" / "front.png").exists():
            run(folder, "-m", "study.run", "--name", name, "--quiet", *options.split())
    pareto = str(ROOT / "analysis" / "pareto.py")
    run(folder, pareto, "digits", "--format", "html,png")
    compared = ("--compare", "--normalise", "--format", "png", "--output", "compared")
    run(folder, pareto, *RUNS, *compared)
    GALLERY.mkdir(exist_ok=True)
    for name, png in pictures(folder):
        small = smaller(png)
        (GALLERY / f"{name}.png").write_bytes(small)
        print(f"{name}.png: {len(small):,} bytes")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.studies or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        draw(folder.resolve())


if __name__ == "__main__":
    main()

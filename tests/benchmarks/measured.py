"""What the benchmarks share: their options, medians side by side, commands timed from outside."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def options(doc: str | None, **numbers: int) -> argparse.Namespace:
    """``--output`` and an option for each of ``numbers`` with its default."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that was."""
    packages = ("torch", "ray", "optuna", "mlflow", "peft")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        **{name: version(name) for name in packages},
    }


def keep(path: Path | None, data: Mapping[str, Any]) -> None:
    """Write ``data`` as JSON, if it was asked for."""
    if path:
        path.write_text(json.dumps(data, indent=1) + "\n")


def spread(values: Sequence[float]) -> str:
    """Median, and the extremes where there are several."""
    text = f"{statistics.median(values):.4g}"
    return text if len(values) == 1 else f"{text} ({min(values):.4g} to {max(values):.4g})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first being the heading; first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "  ".join([f"{first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in others)]).rstrip()

    return "\n".join([line(rows[0]), line(["-" * w for w in widths]), *map(line, rows[1:])])


def command(*words: str) -> list[str]:
    """``python -m words``."""
    return [sys.executable, "-m", *words]


def run(words: Sequence[str], folder: Path, **env: str) -> None:
    """Run a command in ``folder``; what it printed is shown if it fails."""
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}".rstrip())

"""How long a report of many trials takes, and how soon its page answers in a browser.

    python tests/benchmarks/report.py [--trials 1000,10000] [--output FILE.json]

Studies are synthetic (`tests/charted_study.py`, the front verified). Printed for each size: seconds
to load the study from its files and to write the report in the default formats, one process, by the
clock and of the processor; bytes of the page; and, where there is Chromium, milliseconds from
opening the file, with the network off, until the front is drawn and listens, by the clock and of
the page's main thread, medians of five, and from a filter's click until it is drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import browsers
import charted_study as charted
import synthetic_study as synthetic
from pyarrow import fs

from analysis.columns import front
from analysis.load import StudyData, load_study
from analysis.report import write_report

OPENINGS = 5


def verified(study: StudyData) -> StudyData:
    """With a test score of the front and the baselines."""
    chosen = [*front(study.rows), *study.rows[:4]]
    checks = {row.record.trial_id: synthetic.verification(row.record, 5) for row in chosen}
    return replace(study, verifications=checks)


def measured(trials: int) -> dict[str, float | None]:
    """One size."""
    with tempfile.TemporaryDirectory() as folder:
        where = synthetic.write(Path(folder) / "study", verified(charted.charted(trials)))
        start = time.perf_counter()
        study = load_study(str(where))
        loaded, worked = time.perf_counter(), time.process_time()
        paths = write_report(study, fs.LocalFileSystem(), f"{folder}/report")
        written, cpu = time.perf_counter(), time.process_time() - worked
        assert paths.html
        page = Path(paths.html)
        found: dict[str, float | None] = {
            "trials": trials,
            "load_seconds": loaded - start,
            "report_seconds": written - loaded,
            "report_cpu_seconds": cpu,
            "page_bytes": page.stat().st_size,
        }
        return found | opened(page)


def opened(page: Path) -> dict[str, float | None]:
    """Milliseconds in Chromium; None where there is none."""
    if browsers.missing():
        return dict.fromkeys(("interactive_ms", "thread_ms", "filter_ms"))
    counters: list[Any] = []

    def count(tab: Any) -> None:
        counters.append(tab.context.new_cdp_session(tab))
        counters[-1].send("Performance.enable", {"timeDomain": "threadTicks"})

    with browsers.browser() as browser:
        times, threads = [], []
        for _ in range(OPENINGS):
            with browsers.opened(browser, page, before=count) as tab:
                times.append(tab.evaluate("performance.getEntriesByName('ready')[0].startTime"))
                told = counters[-1].send("Performance.getMetrics")["metrics"]
                threads += [1e3 * one["value"] for one in told if one["name"] == "TaskDuration"]
                click = tab.evaluate(
                    """async () => {
                        const start = performance.now();
                        document.querySelector("#front-filters .chip").click();
                        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                        return performance.now() - start;
                    }"""
                )
    return {
        "interactive_ms": median(times),
        "thread_ms": median(threads),
        "filter_ms": click,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", default="1000,10000")
    parser.add_argument("--output")
    asked = parser.parse_args()
    found = [measured(int(count)) for count in asked.trials.split(",")]
    for one in found:
        print(json.dumps(one))
    if asked.output:
        Path(asked.output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

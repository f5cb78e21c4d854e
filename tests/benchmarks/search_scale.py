"""What searching costs after very many trials: suggestions, the driver's own work, its memory.

    python tests/benchmarks/search_scale.py [--trials 10000] [--workers 8] [--searcher NAME]
                                            [--output FILE.json]

One study of the default space with its default scheduler, its trials' curves made up
(``tests/fake_runner.py``), everything else real: driver, state, searcher, scheduler, the live
line, the lines of the log. Printed for each tenth of the study, medians in milliseconds, of the
clock and of this process's own time (another process's load is in the first alone):

- suggestion: one ``ask``;
- scheduling: what the driver takes to hand out a trial, the suggestion left out;
- result: what the driver takes for a worker's result: reports, decision, record, telling;
- memory: growth of the resident set a trial, in KB, over the tenth.

Below: the same over the last tenth beside the limits 30 ms, 5 ms, 5 ms and 50 KB (the last from
the first tenth on). About 10 minutes on a quiet core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from measured import ROOT, keep, machine, table

from study.config import load_config
from study.events import Event, encode
from study.terminal.live import Live

sys.path.append(str(ROOT / "tests"))
from fake_runner import FakeRunner  # noqa: E402

LIMITS = {"suggestion": 30.0, "scheduling": 5.0, "result": 5.0, "memory": 50.0}
PAGE = 4096


class Encoded:
    """A log that spells each event out and forgets it."""

    def append(self, event: Event) -> None:
        """Nothing is kept."""
        encode(event)


class Clock:
    """Durations of calls by name, (clock, process) in milliseconds; inner calls left out."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {}
        self._inner = (0.0, 0.0)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed."""

        def timing(*args: Any) -> Any:
            outer, self._inner = self._inner, (0.0, 0.0)
            wall, own = time.perf_counter(), time.process_time()
            try:
                return call(*args)
            finally:
                took = (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - own))
                within = self._inner
                self.taken.setdefault(name, []).append((took[0] - within[0], took[1] - within[1]))
                self._inner = (outer[0] + took[0], outer[1] + took[1])

        return timing

    def medians(self) -> dict[str, float]:
        """Since the last call."""
        found = {}
        for name, pairs in self.taken.items():
            found[name] = median(wall for wall, _ in pairs)
            found[f"{name}, own"] = median(own for _, own in pairs)
        self.taken.clear()
        return found


def resident() -> float:
    """Resident memory of this process in KB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e3


def study(trials: int, workers: int, searcher: str | None) -> list[dict[str, float]]:
    """A row for each tenth of the study."""
    overrides = {"trials": str(trials)} | ({"searcher": searcher} if searcher else {})
    config = load_config(ROOT / "study/configs/digits.yaml", overrides)
    runner, clock, rows = FakeRunner(config, concurrency=workers), Clock(), []
    driver = runner.driver
    driver.log = Encoded()
    driver.views = (Live(runner.state, trials, config.task.objective, config.task.chance),)
    runner.search.ask = clock.timed("suggestion", runner.search.ask)  # type: ignore[method-assign]
    driver.on_result = clock.timed("result", driver.on_result)  # type: ignore[method-assign]
    hand_out = clock.timed("scheduling", driver.next)
    before, next_row = resident(), trials // 10

    def tenth_by_tenth(tune_id: str) -> Any:
        nonlocal before, next_row
        if driver.searched >= next_row:
            now = resident()
            rows.append(
                {
                    "trials": driver.searched,
                    **clock.medians(),
                    "memory": (now - before) / trials * 10,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
            before, next_row = now, next_row + trials // 10
        return hand_out(tune_id)

    driver.next = tenth_by_tenth  # type: ignore[method-assign]
    runner.run()
    return rows


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--searcher", help="default: the config's")
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    options = parser.parse_args()
    where = machine()
    rows = study(options.trials, options.workers, options.searcher)
    names = list(rows[-1])
    print(table([names, *([f"{row[name]:,.2f}" for name in names] for row in rows)]))
    last = dict(rows[-1], memory=sum(row["memory"] for row in rows[1:]) / len(rows[1:]))
    for name, limit in LIMITS.items():
        print(f"{name}: {last[name]:.2f}, at most {limit:g}")
    keep(options.output, {"machine": where, "tenths": rows})


if __name__ == "__main__":
    main()

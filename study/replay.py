"""``python -m study.replay TRIAL``: run a trial again and say whether it comes out the same.

What is heavy is imported late: how many threads a library takes, most read when they are imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from analysis.answering import Answering, answer, fail
from analysis.columns import setting
from analysis.load import DEFAULT_STORAGE, Row
from clusters.connection import limits
from compression.registry import InvalidSetting
from study.errors import StudyError
from study.finished import Finished, Found, find_trial
from study.store.files import probe
from trainables.record import Fingerprint, Origin, Outcome, Record, Report, Status

if TYPE_CHECKING:
    from study.config import StudyConfig


@dataclass(frozen=True)
class Check:
    """One thing that was compared. ``by`` says how far apart the two are, if they are."""

    what: str
    recorded: str
    here: str
    by: str = ""

    @property
    def same(self) -> bool:
        """To the last bit."""
        return self.recorded == self.here


class Shelf(dict[str, bytes]):
    """The files of a trial, in memory: see :class:`trainables.shelf.Shelf`."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Keep them."""
        self[name] = data


@dataclass(frozen=True)
class Replay:
    """A trial's record and what it came to now. ``environment`` are differences of the place."""

    found: Found
    checks: tuple[Check, ...]
    environment: tuple[Check, ...]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def same(self) -> bool:
        """Whether everything that was measured is the same to the last bit."""
        return all(check.same for check in self.checks)


def replay(found: Found, say: Callable[[str], None]) -> Replay:
    """Run the trial again, in this process.

    Raises:
        InvalidSetting: its study's configuration can't be read here, or lacks its plugins.
        OtherData: weights or data are others than those of the record.
    """
    config = _config(found.study)
    from study.once import prepared, run_once
    from study.signals import Interrupts
    from trainables.hardware.allocator import keep_freed_memory
    from trainables.hardware.devices import limit_threads

    data = prepared(config)
    if lines := list(_other(found.record.origin.fingerprint, data.fingerprint)):
        raise OtherData("; ".join(lines))
    with Interrupts() as interrupts:
        cached = run_once(config, config.search_space(), data, say, interrupts)
    if interrupts.caught is not None:
        raise KeyboardInterrupt
    limit_threads(config.resources.cpus)
    keep_freed_memory()
    outcome, shelf, here = _run(found.record, config, data, cached)
    remarks = (*found.remarks, *_changed_plugins(found.record, config))
    return Replay(
        found,
        tuple(checks(found, outcome, shelf)),
        tuple(environment(found.record.origin, here)),
        remarks,
        outcome.seconds or 0.0,
    )


class OtherData(StudyError):
    """The trial can't be run again: weights or data are not those that it was run on."""


def _config(study: Finished) -> StudyConfig:
    """The study's configuration; its plugins stand in the current folder."""
    from study.config import make_config
    from study.plugins import sent_along

    config = {**study.info.get("config", {}), "plugins": sent_along(study.info)}
    return make_config(config, f"{study.storage}/study.json")


def _changed_plugins(record: Record, config: StudyConfig) -> Iterator[str]:
    now = config.plugin_hashes()
    for name, then in record.origin.plugins.items():
        if now.get(name) != then:
            yield f"plugin {name} was {then[:16]}, is {str(now.get(name, 'absent'))[:16]}"


def _other(then: Fingerprint, now: Fingerprint) -> Iterator[str]:
    for name, old in asdict(then).items():
        if old != (new := getattr(now, name)):
            yield f"{name}: recorded on {old or 'none'}, here {new or 'none'}"


def _run(
    record: Record, config: StudyConfig, data: Any, cached: bool
) -> tuple[Outcome, Shelf, Origin]:
    """The trial, ended after the epochs after which it ended, its files shelved at the same."""
    from study.loop.placement import Placement
    from study.origin import origin
    from study.schedulers import Budget
    from trainables.attempt import Attempt
    from trainables.hardware.devices import describe, pick

    on_card = " cuda" in record.origin.device
    device = pick("auto" if on_card else "cpu")
    budget = Budget(config.epochs, config.search_space().min_fidelity())
    milestones = config.scheduler.milestones(budget)
    shelf, trial, ended = Shelf(), record.trial, record.outcome
    until = ended.epochs_done if ended.status is Status.STOPPED else trial.epochs
    if ended.sha256:  # shelved where it ended, whatever the scheduler's milestones are by now
        milestones = (*milestones, until)
    attempt = Attempt(config.task, data, trial, shelf, device, cached)
    attempt.advance(milestones, weighed=True)
    while not attempt.finished and attempt.so_far.epochs_done < until:
        attempt.advance(milestones)
    gpus, card = (1.0, describe(device)) if device.type == "cuda" else (0.0, "")
    place = str(Placement(config.resources.cpus, gpus, 1, card))
    return attempt.outcome, shelf, origin(data.fingerprint, config.plugin_hashes(), place)


def checks(found: Found, now: Outcome, shelf: Mapping[str, bytes]) -> Iterator[Check]:
    """What was measured then and now."""
    then = found.record.outcome
    yield Check("ended", *(f"{o.status}, {o.epochs_done} epochs" for o in (then, now)))
    if then.error or now.error:
        yield Check("error", then.error or "none", now.error or "none")
    old, new = ([_timeless(report) for report in o.curve] for o in (then, now))
    yield Check("curve", _digest(old), _digest(new), _apart(old, new))
    yield Check("metrics", *(json.dumps(o.metrics, default=dict) for o in (then, now)))
    sizes = [None if o.size is None else o.size.file_bytes for o in (then, now)]
    yield Check("file bytes", *map(str, sizes))
    if then.sha256 or not found.trial.source:  # of one taken over, the file may be gone
        yield Check("file sha256", str(then.sha256), str(now.sha256))
        logits = _logits_apart(found, shelf) if then.probe != now.probe else ""
        yield Check("logits", str(then.probe), str(now.probe), logits)


def _timeless(report: Report) -> Report:
    return replace(report, seconds=0.0)


def _digest(curve: Sequence[Report]) -> str:
    from trainables.serial import canonical, digest

    return f"{len(curve)} reports {digest(map(canonical, curve))}"


def _apart(then: Sequence[Report], now: Sequence[Report]) -> str:
    """The largest difference of each metric, and the epoch where the curves part."""
    pairs = list(zip(then, now, strict=False))
    parts = next((a.epochs_done for a, b in pairs if a != b), None)
    if parts is None:
        return ""
    names = dict.fromkeys(name for a, b in pairs for name in a.metrics if name in b.metrics)
    most = {n: max(abs(a.metrics[n] - b.metrics[n]) for a, b in pairs) for n in names}
    return f"from epoch {parts} on; at most " + ", ".join(f"{n} {d:.3g}" for n, d in most.items())


def _logits_apart(found: Found, shelf: Mapping[str, bytes]) -> str:
    """The largest difference of the logits on the fixed batch, while both are there."""
    import safetensors.torch

    name = probe(found.trial.trial_id)
    again = shelf.get(name.rpartition("/")[2])
    if again is None or not found.study.storage.exists(name):
        return "not kept"
    pair = [found.study.storage.read_bytes(name), again]
    old, new = (safetensors.torch.load(data)["logits"] for data in pair)
    if old.shape != new.shape:
        return f"shapes {tuple(old.shape)} and {tuple(new.shape)}"
    return f"at most {(old - new).abs().max().item():.3g}"


def environment(then: Origin, now: Origin) -> Iterator[Check]:
    """What differs of the place: code, versions, machine."""
    commits = [f"{o.commit[:12]}{' with changes' if o.dirty else ''}" for o in (then, now)]
    found = [Check("commit", *commits), Check("device", then.device, now.device)]
    for name in {**then.versions, **now.versions}:
        found.append(Check(name, *(str(o.versions.get(name, "none")) for o in (then, now))))
    yield from (check for check in found if not check.same)


def as_text(done: Replay) -> Iterator[str]:
    """What is printed."""
    trial, outcome = done.found.trial, done.found.record.outcome
    yield (
        f"trial {trial.trial_id}, number {trial.number} of {done.found.study.name}: "
        f"{setting(Row(done.found.record))}; {outcome.status} after {outcome.epochs_done} epochs"
    )
    yield from done.remarks
    for check in done.environment:
        yield f"  other {check.what}: recorded {check.recorded}, here {check.here}"
    for check in done.checks:
        if check.same:
            yield f"  {check.what:12} the same: {check.here}"
        else:
            apart = f"; apart {check.by}" if check.by else ""
            yield f"  {check.what:12} DIFFERS: recorded {check.recorded}, here {check.here}{apart}"
    yield "the same to the last bit" if done.same else "not the same"


def as_json(done: Replay) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "trial_id": done.found.trial.trial_id,
        "study": done.found.study.name,
        "same": done.same,
        "checks": [{**asdict(check), "same": check.same} for check in done.checks],
        "environment": [asdict(check) for check in done.environment],
        "remarks": list(done.remarks),
        "seconds": done.seconds,
    }


@click.command(cls=Answering, context_settings={"max_content_width": 100})
@click.argument("trial")
@click.option("--study", help="Its study, by name or folder; without it all in the storage.")
@click.option("--storage", metavar="URI", default=DEFAULT_STORAGE, help="That holds the studies.")
@click.option("--json", "in_json", is_flag=True, help="One line of JSON.")
def main(trial: str, study: str | None, storage: str, in_json: bool) -> None:
    """Run TRIAL again and say whether it comes out the same.

    TRIAL is its id, the beginning of it, or with --study its number.

    Exit codes: 0 the same to the last bit, 1 different, 2 the input is wrong.
    """
    try:
        found = find_trial(trial, study, storage)
        # Before torch is imported: as workers begin.
        os.environ.update(limits(int(found.study.info["config"]["resources"]["cpus"])))
        done = replay(found, lambda text: click.echo(text, err=True))
    except InvalidSetting as error:
        fail(2, error.errors)
    except StudyError as error:
        fail(1, [str(error)])
    answer(as_json(done), "\n".join(as_text(done)))
    sys.exit(0 if done.same else 1)


if __name__ == "__main__":
    main()

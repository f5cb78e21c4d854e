"""A small made-up study for tests of the log and its views."""

from __future__ import annotations

from study.events import (
    Answered,
    Closed,
    Ended,
    Event,
    Opened,
    Reported,
    Started,
    Suggested,
    Verified,
)
from trainables.record import (
    Choice,
    Fingerprint,
    LayerRule,
    Origin,
    Outcome,
    Paired,
    Parts,
    Record,
    Report,
    Size,
    Status,
    Trial,
    Verification,
)

ERRORS = {
    Status.FAILED: "ValueError: loss is nan at step 3",
    Status.OUT_OF_MEMORY: "out of memory: 3 GB (recover.py:70)",
}
FINGERPRINT = Fingerprint("weights", "data")
INFO = {
    "objectives": [
        {"name": "val_accuracy", "direction": "maximize", "unit": "fraction"},
        {"name": "log2_ratio", "direction": "maximize", "unit": "doublings"},
    ],
    "reference": {"val_accuracy": 0.1, "log2_ratio": 0.0},
}
"""What a study says of itself, as far as its log does not."""
SIZE = Size(Parts(10, header=6), Parts(10), Parts(58, header=6), Parts(58), 8, 320)


def make_trial(number: int = 0) -> Trial:
    rule = LayerRule((Choice("int1"),), Choice("residual"), Choice("lora"), rank=4)
    return Trial(
        Choice("digits"), (rule,), optimizer=Choice("adam"), lr=1e-3 * (number + 10), batch_size=32,
        epochs=5,
    )  # fmt: skip


def trial_id(number: int = 0) -> str:
    return make_trial(number).trial_id(FINGERPRINT)


def reports(count: int = 5) -> tuple[Report, ...]:
    return tuple(Report(e, {"accuracy": 0.5 + e / 100}, 0.1, float(e)) for e in range(count))


def make_record(number: int = 0, status: Status = Status.COMPLETED) -> Record:
    if status in ERRORS:
        outcome = Outcome(status, error=ERRORS[status])
    else:
        curve = reports()
        best = {"val": dict(curve[-1].metrics)}
        outcome = Outcome(status, 4, 4, best, SIZE, 100, 1.5, sha256="ab" * 32, curve=curve)
    return Record(make_trial(number), outcome, Origin(FINGERPRINT, versions={"torch": "2"}))


def begin(number: int = 0, at: float = 100.0, role: str = "search") -> list[Event]:
    params = {"method": "int1", "rank": 4, "adam.lr": 1e-3 * (number + 10)}
    identity = trial_id(number)
    return [
        Suggested(number, role, params, make_trial(number), identity),
        Started(number, identity, at),
    ]


def curve(number: int = 0, count: int = 5) -> list[Event]:
    return [Reported(number, trial_id(number), report) for report in reports(count)]


def end(number: int = 0, at: float = 110.0, status: Status = Status.COMPLETED) -> list[Event]:
    return [Ended(number, trial_id(number), make_record(number, status), at)]


def whole(number: int = 0, at: float = 100.0) -> list[Event]:
    return [*begin(number, at), *curve(number), *end(number, at + 5)]


def verified(number: int = 0, problems: tuple[str, ...] = ()) -> Verified:
    paired = {"dense": Paired(719, 7, 3)}
    return Verified(
        Verification(trial_id(number), "ab" * 32, 16, {"accuracy": 0.95}, paired, problems=problems)
    )


def opened(at: float = 90.0, resumed: bool = False) -> Opened:
    return Opened(at, "identity", {"ray": "2"}, resumed)


def every_kind() -> list[Event]:
    return [
        opened(),
        *whole(0),
        Suggested(1, "search", {"method": "int1"}, make_trial(0), trial_id(0)),
        Answered(1, trial_id(0)),
        verified(0),
        Closed(120.0, "done", 30.0),
    ]

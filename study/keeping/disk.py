"""What a study's folder holds in bytes, and what killed processes left in it."""

from __future__ import annotations

import re

from study.state import OPEN, StudyState
from study.store.files import CHECKPOINTS, FOLDER, in_writing, owner
from study.store.storage import Storage

_OURS = re.compile(rf"({FOLDER}|{CHECKPOINTS})/[0-9a-f]{{16}}\.([0-9a-z]+\.)?safetensors")
_ASIDE = re.compile(r".+\.[0-9a-f]{8}\.part|\.writable-[0-9a-f]{8}")


def used(storage: Storage) -> dict[str, int]:
    """Bytes of the study's files: of artifacts with their logits, of checkpoints, of the rest."""
    found = {FOLDER: 0, CHECKPOINTS: 0, "rest": 0}
    for name, size in storage.sizes().items():
        top = name.partition("/")[0]
        found[top if top in found else "rest"] += size
    return found


def as_text(found: dict[str, int]) -> str:
    """The same for people."""
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in found.items() if size)
    return f"disk: {sum(found.values()) / 1e6:.1f} MB ({parts})"


def left_over(storage: Storage, state: StudyState) -> dict[str, int]:
    """Files that nobody needs, with their sizes: what a killed process left.

    Half-written ones, checkpoints of trials that are not open, and artifacts of trials that are
    neither open nor have a record with a file. Only for who has the study's lease: else another
    process may be writing them. What this program does not name so is not its own, and stays.
    """
    unended = {trial.trial_id for trial in state.trials.values() if trial.phase in OPEN}
    filed = {t.trial_id for t in state.trials.values() if t.record and t.record.outcome.sha256}
    needed = {FOLDER: unended | filed, CHECKPOINTS: unended}
    return {
        name: size
        for name, size in storage.sizes().items()
        if _ASIDE.fullmatch(name.rpartition("/")[2])
        or (_OURS.fullmatch(name) and owner(name) not in needed[name.partition("/")[0]])
    }


def tidy(storage: Storage, state: StudyState) -> str | None:
    """Delete what is left over; a line that says so."""
    found = left_over(storage, state)
    for name in found:
        storage.delete(name)
    if not found:
        return None
    size = sum(found.values()) / 1e6
    return f"removed {len(found)} files that killed processes left ({size:.1f} MB)"


def counted(storage: Storage) -> dict[str, int]:
    """The files that a quota counts, with their sizes: of trials, written whole."""
    found = storage.sizes(FOLDER) | storage.sizes(CHECKPOINTS)
    return {name: size for name, size in found.items() if not in_writing(name)}

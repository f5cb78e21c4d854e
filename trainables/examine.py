"""Hold an artifact against its record, and score it on test. The only reader of a test split."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from compression.artifact import ArtifactError, deserialize
from trainables.attempt import probe, tensor_hash
from trainables.record import Paired, Record, Verification
from trainables.splits import Split
from trainables.stage import Stage, whole
from trainables.tasks.base import Prepared, Task, observe

TOLERANCE = 1e-5


class Examiner:
    """Examines several artifacts of one task; remembers who was right on which test example."""

    def __init__(self, task: Task, data: Prepared, test: Split) -> None:
        self.task, self.data, self.test = task, data, test
        self._observed: dict[str, dict[str, Tensor]] = {}

    def examine(
        self,
        record: Record,
        artifact: bytes,
        probe_file: bytes,
        baselines: Mapping[str, str],
        at: str = "",
    ) -> Verification:
        """Load the file, check bytes, hash, logits and validation metric, then score it on test.

        ``baselines`` are trial ids by role: those examined before are compared with, example by
        example. A disagreement is a problem in the result, not an error; only a file that does not
        load has no metrics.
        """
        problems = _file_problems(record, artifact)
        try:
            model = deserialize(artifact, self.task.architecture())
        except ArtifactError as error:
            return self._result(record, artifact, {}, {}, [*problems, str(error)], "none", at)
        stage = whole(self.task, model, self.data)
        agreement = _logits_agreement(record, probe(stage.forward, stage.validation), probe_file)
        if agreement == "none":
            problems.append("logits on the fixed validation batch differ from the record's")
        problems += self._metric_problems(record, stage)
        observed = observe(self.task, stage.forward, self.test)
        metrics = dict(self.task.score(observed, self.test.labels))
        paired = {
            role: self._paired(self._observed[trial_id], observed)
            for role, trial_id in baselines.items()
            if trial_id in self._observed
        }
        self._observed[record.trial_id] = observed
        return self._result(record, artifact, metrics, paired, problems, agreement, at)

    def _metric_problems(self, record: Record, stage: Stage) -> list[str]:
        observed = observe(self.task, stage.forward, stage.validation)
        now = self.task.score(observed, stage.validation.labels)[self.task.metric]
        then = record.outcome.metrics["val"][self.task.metric]
        if math.isclose(now, then, abs_tol=1e-12):
            return []
        return [f"val/{self.task.metric} is {now:.6g}, the record says {then:.6g}"]

    def _paired(self, reference: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Paired:
        labels = self.test.labels
        theirs, ours = self.task.correct(reference, labels), self.task.correct(observed, labels)
        return Paired(
            n=len(labels),
            only_reference=int((theirs & ~ours).sum()),
            only_model=int((ours & ~theirs).sum()),
            flips=int((reference["prediction"] != observed["prediction"]).sum()),
        )

    def _result(
        self,
        record: Record,
        artifact: bytes,
        metrics: Mapping[str, float],
        paired: Mapping[str, Paired],
        problems: list[str],
        agreement: str,
        at: str,
    ) -> Verification:
        return Verification(
            trial_id=record.trial_id,
            sha256=hashlib.sha256(artifact).hexdigest(),
            file_bytes=len(artifact),
            metrics=metrics,
            paired=paired,
            problems=tuple(problems),
            logits_agreement=agreement,
            device=f"{platform.machine()} cpu, {torch.get_num_threads()} threads",
            at=at,
        )


def _file_problems(record: Record, artifact: bytes) -> list[str]:
    problems = []
    size, sha256 = record.outcome.size, hashlib.sha256(artifact).hexdigest()
    if size is None or len(artifact) != size.file_bytes:
        problems.append(f"the file has {len(artifact)} bytes, the record says otherwise")
    if sha256 != record.outcome.sha256:
        problems.append(f"the file's sha256 is {sha256[:16]}..., the record says otherwise")
    return problems


def _logits_agreement(record: Record, logits: Tensor, probe_file: bytes) -> str:
    """How near the logits are to those on file, which count only if they are the record's."""
    if tensor_hash(logits) == record.outcome.probe:
        return "bitwise"
    try:
        recorded = safetensors.torch.load(probe_file)["logits"]
    except (SafetensorError, KeyError):
        return "none"
    close = (
        tensor_hash(recorded) == record.outcome.probe
        and recorded.shape == logits.shape
        and torch.allclose(recorded, logits, rtol=TOLERANCE, atol=TOLERANCE)
    )
    return "1e-5" if close else "none"

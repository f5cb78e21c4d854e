"""Hold an artifact against its record, and score it on test. The only reader of a test split."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from compression.artifact import ArtifactError, deserialize
from compression.export import runs_in
from compression.footprint import resident_bytes
from trainables.features import features_of
from trainables.frozen.forward_pass import all_cores
from trainables.latency import model_latency
from trainables.probes import probe, tensor_hash
from trainables.record import COUNTED, Drop, Paired, Record, Verification
from trainables.scoring import metrics
from trainables.scoring.beside import beside
from trainables.scoring.drops import Drops
from trainables.splits import Split
from trainables.tasks.base import Prepared, Task, observe, predict

TOLERANCE = 1e-5
ELSEWHERE = 1e-3
"""How far a metric that a GPU measured may be from the CPU's; or two examples, if that is more."""


class Examiner:
    """Examines several artifacts of one task; remembers who was right on which test example."""

    def __init__(self, task: Task, data: Prepared, test: Split) -> None:
        self.task, self.data, self.test = task, data, test
        self._observed: dict[str, dict[str, Tensor]] = {}
        self._validated: dict[str, dict[str, Tensor]] = {}
        self._drops = Drops(task, test.labels, test.groups)

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

        Logits agree bitwise where the trial ran the whole model as it is done here. A trial on
        cached features or recalled outputs sums in another order: there ``1e-5`` can be reached.
        Then the validation metric may differ by what examples decide whose two largest logits are
        that near to each other, and by no more.
        """
        problems = _file_problems(record, artifact)
        try:
            model = deserialize(artifact, self.task.architecture())
        except ArtifactError as error:
            return self._result(record, artifact, {}, [*problems, str(error)], "none", at)
        # The probe goes through the whole model; everything else may use what is cached of it.
        logits = probe(partial(self.task.forward, model), self.data.validation)
        agreement = _logits_agreement(record, logits, probe_file)
        if agreement == "none":
            problems.append("logits on the fixed validation batch differ from the record's")
        validated = self._observe(model, self.data.validation)
        problems += self._metric_problems(record, model, agreement, validated)
        observed = self._observe(model, self.test)
        scores = dict(self.task.score(observed, self.test.labels))
        known = {role: i for role, i in baselines.items() if i in self._observed}
        self._observed[record.trial_id], self._validated[record.trial_id] = observed, validated
        scores |= self._beside(observed, baselines.get("dense"))
        return replace(
            self._result(record, artifact, scores, problems, agreement, at),
            latency_ms=model_latency(self.task, model, self.data.validation).median_ms,
            resident_bytes=self._resident(artifact),
            runs_in=runs_in(model),
            paired=self._pairs({r: self._observed[i] for r, i in known.items()}, observed),
            on_validation=self._pairs(
                {r: self._validated[i] for r, i in known.items()}, validated, self.data.validation
            ),
            drops=self._compared(record.trial_id, known),
        )

    def _beside(self, observed: Mapping[str, Tensor], dense: str | None) -> dict[str, float]:
        labels = self.test.labels
        if self.task.correct(observed, labels) is None:
            return {}
        return beside(observed, labels, self._observed.get(dense or ""))

    def _resident(self, artifact: bytes) -> int | None:
        """Bytes that the model keeps in memory with its weights packed; None if they can't be."""
        try:
            model = deserialize(artifact, self.task.architecture(), keep_packed=True)
        except ArtifactError:
            return None
        return resident_bytes(model)

    def _observe(self, model: nn.Module, split: Split) -> dict[str, Tensor]:
        with all_cores():  # nothing else runs now; what is scored is computed as trials did
            forward, features = features_of(self.task, self.data.model, model, split)
        return observe(self.task, forward, features)

    def _metric_problems(
        self, record: Record, model: nn.Module, agreement: str, observed: Mapping[str, Tensor]
    ) -> list[str]:
        validation = self.data.validation
        now = self.task.score(observed, validation.labels)[self.task.metric]
        then = record.outcome.metrics["val"][self.task.metric]
        # Logits that are equal up to rounding give a continuous metric that is, too.
        near = agreement == "1e-5"
        rounds = near and self.task.metric not in COUNTED
        rel, least = 10 * TOLERANCE if rounds else 1e-9, 1e-12
        if "cuda" in record.origin.device:
            # A card sums in another order than this CPU: what lies on an edge may fall either way.
            rel, least = ELSEWHERE, max(ELSEWHERE, 2 / len(validation))
        if math.isclose(now, then, rel_tol=rel, abs_tol=least):
            return []
        if near and abs(now - then) <= self._undecided(model, observed, now) + 1e-9:
            return []
        return [f"val/{self.task.metric} is {now:.6g}, the record says {then:.6g}"]

    def _undecided(self, model: nn.Module, observed: Mapping[str, Tensor], now: float) -> float:
        """How far the validation metric would move if every near-tie fell the other way."""
        validation, moved = self.data.validation, 0.0
        if self.task.correct(observed, validation.labels) is None:
            return moved
        with all_cores():
            forward, features = features_of(self.task, self.data.model, model, validation)
        logits = predict(forward, features, self.task.eval_batch_size)
        others = metrics.runners_up(logits, TOLERANCE)
        for row in (others >= 0).nonzero()[:, 0]:
            turned = observed["prediction"].clone()
            turned[row] = others[row]
            scores = self.task.score({**observed, "prediction": turned}, validation.labels)
            moved += abs(scores[self.task.metric] - now)
        return moved

    def _pairs(
        self,
        references: Mapping[str, Mapping[str, Tensor]],
        observed: Mapping[str, Tensor],
        split: Split | None = None,
    ) -> dict[str, Paired]:
        """Who is right where, by the role of each that this is held against."""
        found = {r: self._paired(other, observed, split) for r, other in references.items()}
        return {role: pair for role, pair in found.items() if pair is not None}

    def _paired(
        self,
        reference: Mapping[str, Tensor],
        observed: Mapping[str, Tensor],
        split: Split | None = None,
    ) -> Paired | None:
        """Who is right where, on test by default; None where examples are not right or wrong."""
        labels = (self.test if split is None else split).labels
        theirs, ours = self.task.correct(reference, labels), self.task.correct(observed, labels)
        if theirs is None or ours is None:
            return None
        return Paired(
            n=len(labels),
            only_reference=int((theirs & ~ours).sum()),
            only_model=int((ours & ~theirs).sum()),
            flips=int((reference["prediction"] != observed["prediction"]).sum()),
        )

    def _compared(self, trial_id: str, roles: Mapping[str, str]) -> dict[str, Drop]:
        """The drop against each of these where pairs of right and wrong don't tell how sure it is.

        Pairs do for a share of right examples, if these are independent.
        """
        if self.task.metric in COUNTED and self.test.groups is None:
            return {}
        for name in (trial_id, *roles.values()):
            self._drops.take(name, self._observed[name])
        found = {role: self._drops.drop(other, trial_id) for role, other in roles.items()}
        return {role: drop for role, drop in found.items() if drop is not None}

    def _result(
        self,
        record: Record,
        artifact: bytes,
        scores: Mapping[str, float],
        problems: list[str],
        agreement: str,
        at: str,
    ) -> Verification:
        return Verification(
            trial_id=record.trial_id,
            sha256=hashlib.sha256(artifact).hexdigest(),
            file_bytes=len(artifact),
            metrics=scores,
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
    """How near the logits are to those on file, which count only if they are the record's.

    A gap counts in parts of the largest logit: they are sums of terms of that size, which a cached
    prefix, another batch or another machine adds up in another order.
    """
    if tensor_hash(logits) == record.outcome.probe:
        return "bitwise"
    try:
        recorded = safetensors.torch.load(probe_file)["logits"]
    except (SafetensorError, KeyError):
        return "none"
    close = (
        tensor_hash(recorded) == record.outcome.probe
        and recorded.shape == logits.shape
        and (recorded - logits).abs().max() <= TOLERANCE * max(1.0, recorded.abs().max().item())
    )
    return "1e-5" if close else "none"

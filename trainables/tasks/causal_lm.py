"""Any Hugging Face decoder on running text, and a small one that is trained here."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from torch import Tensor, nn

from compression.artifact import deserialize, serialize
from compression.registry import (
    ANYTHING,
    FloatRange,
    IntRange,
    InvalidSetting,
    Text,
    Values,
    errors_of,
    knob,
)
from compression.rules import patterns, target_layers
from trainables.cache import cached
from trainables.data import corpora
from trainables.models import finetuning
from trainables.models import language as language_models
from trainables.models.state import state_hash
from trainables.record import Direction, Fingerprint, Objective
from trainables.scoring import metrics
from trainables.splits import Inputs, Split, TensorSplit
from trainables.tasks.base import TASKS, Prepared, Task

log = logging.getLogger(__name__)

SMALL = "small"
DEFAULT = "default"
ONLY_SMALL = {"model": (SMALL,)}


@TASKS.register("causal_lm")
class CausalLM(Task):
    """A decoder that foretells the next token; scored by perplexity.

    ``small`` is a Llama with 4 query heads to 2 of keys and values, its head tied to the embedding,
    trained here on the training part with a byte-level BPE of that part. 80% of the text train,
    10% validate, 10% test: whole documents (:func:`trainables.data.corpora.read`), drawn by the
    seed.
    """

    eval_batch_size: ClassVar[int] = 8

    model: str = knob(SMALL, Text(ANYTHING, f"{SMALL}, a local folder or a name on the hub"))
    data: str = knob(
        corpora.PYTHON_DOCS,
        Text(ANYTHING, "a text file, a folder of .txt files, a Parquet or CSV file"),
        help=f"or {corpora.PYTHON_DOCS}: what Python's help() says on its topics",
    )
    text: str = knob("text", Text(ANYTHING, "a column name"), help="of a Parquet or CSV file")
    block: int = knob(128, IntRange(4, 32768), help="tokens in an example")
    layers: str = knob(
        DEFAULT,
        Text(ANYTHING, "patterns"),
        help="targets, separated by commas; default: every Linear, less a tied head",
    )
    untie: bool = knob(
        False,
        Values((False, True)),
        help="a tied head may be a target: the file then holds it beside the embedding",
    )
    tune: bool = knob(False, Values((False, True)), help=f"train a model other than {SMALL} too")
    epochs: int = knob(8, IntRange(1, 1000), help=f"of training {SMALL}, or with tune")
    lr: float = knob(3e-3, FloatRange(1e-7, 1.0, log=True))
    batch_size: int = knob(16, IntRange(1, 4096))
    width: int = knob(128, Values((32, 64, 128, 256, 512)), when=ONLY_SMALL)
    depth: int = knob(4, IntRange(1, 32), when=ONLY_SMALL)
    vocabulary: int = knob(1024, IntRange(257, 65536), when=ONLY_SMALL)
    limit: int = knob(0, IntRange(0, 10**9), help="use so many training blocks only; 0: all")

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """By default all of the body; the head too where it has a weight of its own."""
        if self.layers != DEFAULT:
            return patterns(self.layers)
        return self._all_linear

    @cached_property
    def _all_linear(self) -> tuple[str, ...]:
        """Kept in the task, which goes to workers: the model's files may not be there."""
        model = self.skeleton()
        if self.untie or not language_models.tied(model):
            return ("*",)
        return (f"{model.base_model_prefix}.*",)

    @property
    def objective(self) -> Objective:
        """See :class:`Task`."""
        return Objective("perplexity", Direction.MINIMIZE, "")

    @property
    def chance(self) -> float:
        """As many as the vocabulary has tokens: each is equally likely."""
        return float(_vocabulary(self))

    def folder(self) -> Path:
        """Where a model other than ``small`` is."""
        return language_models.model_folder(self.model)

    def check(self) -> None:
        """See :class:`Task`."""
        errors = [] if self.model == SMALL else [*errors_of(self.folder)]
        errors += errors_of(partial(corpora.check, self.data, self.text))
        errors = errors or [*errors_of(lambda: target_layers(self.skeleton(), self.targets))]
        if errors:
            raise InvalidSetting(f"{self.name}: {error}" for error in errors)

    def architecture(self) -> nn.Module:
        """See :class:`Task`: from the configuration alone."""
        return language_models.decoder(self._config())

    def skeleton(self) -> nn.Module:
        """See :class:`Task`: without values."""
        return language_models.decoder(self._config(), "meta")

    def _config(self) -> Any:
        if self.model == SMALL:
            return language_models.small_config(self.vocabulary, self.width, self.depth, self.block)
        config = language_models.config_of(self.folder())
        limit = getattr(config, "max_position_embeddings", self.block)
        if self.block > limit:
            raise InvalidSetting([f"block: {self.block}, but the model takes {limit} tokens"])
        return config

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. Training is done once a machine."""
        parts = _parts(self, seed)
        if self.model == SMALL:
            model = self.architecture()
        else:
            model, new = language_models.load(self.skeleton(), self.folder())
            if new:
                raise InvalidSetting([f"model: the checkpoint lacks {', '.join(new)}"])
        if self.tune or self.model == SMALL:
            schedule = finetuning.Schedule(self.epochs, self.lr, self.batch_size)
            begin = f"causal_lm|{state_hash(model)}|{parts.hash}"
            key = f"{begin}|{schedule}|{finetuning.recipe()}|{seed}"
            done = cached(key, lambda: self._train(model, parts.train, schedule, seed))
            model = deserialize(done, self.architecture())
        fingerprint = Fingerprint(state_hash(model), parts.hash)
        return Prepared(model.eval(), parts.train, parts.validation, fingerprint)

    def _train(
        self, model: nn.Module, train: Split, schedule: finetuning.Schedule, seed: int
    ) -> bytes:
        log.warning("training on %d blocks, %d epochs; done once", len(train), schedule.epochs)
        loss = self.training_loss(train.labels)
        finetuning.fit(model, partial(self.forward, model), loss, train, schedule, seed)
        return serialize(model)

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return _parts(self, seed).test

    def forward(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Logits of the next tokens, (b, t, vocabulary), in the dtype of the weights."""
        outputs: Tensor = model(**cast(Mapping[str, Tensor], inputs)).logits
        return outputs

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of tokens 2..t, in nats."""
        logits, ahead = self.predictions(outputs, labels)
        return nn.functional.cross_entropy(logits.float(), ahead)

    def predictions(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Task.predictions`: of tokens 2..t."""
        ahead = corpora.tokens_of(labels)[:, 1:]
        return outputs[:, :-1].flatten(0, 1), ahead.flatten()

    def observe(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sums over each block (:func:`~trainables.scoring.metrics.next_tokens`), its ``bytes``."""
        seen = metrics.next_tokens(outputs, corpora.tokens_of(labels))
        return seen | {"bytes": labels[:, 0]}

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """``perplexity``, ``bits_per_byte``, ``token_accuracy``; ``loss`` in nats a token."""
        nats, tokens = observed["nll"].double().sum().item(), int(observed["tokens"].sum())
        return {
            "perplexity": metrics.perplexity(observed["nll"], observed["tokens"]),
            "bits_per_byte": nats / math.log(2) / int(observed["bytes"].sum()),
            "token_accuracy": int(observed["hits"].sum()) / tokens,
            "loss": nats / tokens,
        }

    def correct(self, observed: Mapping[str, Tensor], labels: Tensor) -> None:
        """A block is neither right nor wrong."""


class _Parts(NamedTuple):
    train: TensorSplit
    validation: TensorSplit
    test: TensorSplit
    hash: str


@cache
def _parts(task: CausalLM, seed: int) -> _Parts:
    """The splits, and the hash of all that decides which text is where."""
    corpus = corpora.read(task.data, task.text)
    for note in corpus.notes:
        log.warning(note)
    texts = corpora.divided(corpus, seed)
    if task.model == SMALL:
        tokenizer = corpora.byte_pairs(texts[0], task.vocabulary)
    else:
        tokenizer = language_models.raw_tokenizer(task.folder())
    train, validation, test = (
        corpora.blocks(tokenizer, part, task.block, name)
        for name, part in zip(("training", "validation", "test"), texts, strict=True)
    )
    if task.limit:
        train = corpora.first(train, task.limit)
    digest = hashlib.sha256(f"{train.digest}|{validation.digest}|{test.digest}".encode())
    return _Parts(train, validation, test, digest.hexdigest()[:16])


@cache
def _vocabulary(task: CausalLM) -> int:
    if task.model == SMALL:
        return task.vocabulary
    return int(language_models.config_of(task.folder()).vocab_size)

"""Any Hugging Face encoder-decoder that translates, and a small one that is trained here."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from numpy.typing import NDArray
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
from trainables.data import pairs
from trainables.data.texts import TextSplit, tokenise
from trainables.models import finetuning, translation
from trainables.models import language as language_models
from trainables.models.state import state_hash
from trainables.record import Direction, Fingerprint, Objective
from trainables.scoring import translations
from trainables.splits import Inputs, Split
from trainables.tasks.base import TASKS, Prepared, Task

log = logging.getLogger(__name__)

SMALL = "small"
DEFAULT = "default"
ONLY_SMALL = {"model": (SMALL,)}


@TASKS.register("seq2seq")
class Seq2Seq(Task):
    """An encoder-decoder that translates; scored by BLEU and chrF of what it writes greedily.

    ``small`` is a Marian whose embeddings and head are one matrix, trained here. By default it
    learns German for the English sentences of a small grammar
    (:mod:`trainables.data.parallel`): 4,000 train, 400 validate, 800 test.
    """

    eval_batch_size: ClassVar[int] = 64

    model: str = knob(SMALL, Text(ANYTHING, f"{SMALL}, a local folder or a name on the hub"))
    data: str = knob(pairs.SYNTHETIC, Text(ANYTHING, f"{pairs.SYNTHETIC}, a Parquet or CSV file"))
    source: str = knob("source", Text(ANYTHING, "a column name"), help="texts to translate")
    target: str = knob("target", Text(ANYTHING, "a column name"), help="their translations")
    prefix: str = knob("", Text(r"(?s).*", "what a T5 is told"), help="in front of each source")
    languages: str = knob(
        "",
        Text(r"(\S+,\S+)?", "two of a multilingual model's codes, as en_XX,de_DE"),
        help="of source and target",
    )
    primary: str = knob("bleu", Values(translations.NAMES))
    max_length: int = knob(64, IntRange(4, 8192), help="tokens; longer texts lose their end")
    layers: str = knob(
        DEFAULT,
        Text(ANYTHING, "patterns"),
        help="targets, separated by commas; default: every Linear, less a tied head",
    )
    tune: bool = knob(False, Values((False, True)), help=f"train a model other than {SMALL} too")
    epochs: int = knob(6, IntRange(1, 1000), help=f"of training {SMALL}, or with tune")
    lr: float = knob(3e-3, FloatRange(1e-7, 1.0, log=True))
    batch_size: int = knob(32, IntRange(1, 4096))
    width: int = knob(128, Values((32, 64, 128, 256, 512)), when=ONLY_SMALL)
    depth: int = knob(2, IntRange(1, 32), help="layers a side", when=ONLY_SMALL)
    vocabulary: int = knob(1400, IntRange(258, 65536), when=ONLY_SMALL)
    limit: int = knob(0, IntRange(0, 10**9), help="use so many training pairs only; 0: all")

    @property
    def targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """By default all of encoder and decoder; the head too where it has its own weight."""
        return self._all_linear if self.layers == DEFAULT else patterns(self.layers)

    @cached_property
    def _all_linear(self) -> tuple[str, ...]:
        return translation.body(self.skeleton())

    @cached_property
    def tokenizer(self) -> Any:
        """Of both languages."""
        if self.model == SMALL:
            return pairs.subwords(self.vocabulary)
        found = language_models.fast_tokenizer(self.folder())
        if self.languages:
            found.src_lang, found.tgt_lang = self.languages.split(",")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What workers need of the model's files, which may not be there, goes with the task."""
        return vars(self) | {"tokenizer": self.tokenizer, "_all_linear": self._all_linear}

    @property
    def objective(self) -> Objective:
        """See :class:`Task`."""
        return Objective(self.primary, Direction.MAXIMIZE, "fraction")

    @property
    def chance(self) -> float:
        """Of a translation that has nothing in common with the right one."""
        return 0.0

    def folder(self) -> Path:
        """Where a model other than ``small`` is."""
        return language_models.model_folder(self.model)

    def check(self) -> None:
        """See :class:`Task`."""
        errors = [*errors_of(translations.require_sacrebleu)]
        errors += [] if self.model == SMALL else errors_of(self.folder)
        errors += errors_of(partial(pairs.check, self.data, self.source, self.target))
        errors = errors or [
            *errors_of(lambda: self.tokenizer),
            *errors_of(lambda: target_layers(self.skeleton(), self.targets)),
        ]
        if errors:
            raise InvalidSetting(f"{self.name}: {error}" for error in errors)

    def architecture(self) -> nn.Module:
        """See :class:`Task`: from the configuration alone."""
        return translation.encoder_decoder(*self.plan())

    def skeleton(self) -> nn.Module:
        """See :class:`Task`: without values."""
        return translation.encoder_decoder(*self.plan(), "meta")

    def plan(self) -> tuple[Any, translation.Writing]:
        """The model's configuration, and how it writes."""
        if self.model == SMALL:
            start, end = translation.PAD, translation.END
            sizes = (self.vocabulary, self.width, self.depth, self.max_length)
            writing = translation.Writing(start, end, translation.PAD, self.max_length)
            return translation.small_config(*sizes), writing
        folder = self.folder()
        config = language_models.config_of(folder)
        limit = getattr(config, "max_position_embeddings", self.max_length)
        if self.max_length > limit:
            raise InvalidSetting([f"max_length: {self.max_length}, but the model takes {limit}"])
        return config, translation.writing_of(config, folder, self.max_length, self._first())

    def _first(self) -> int | None:
        """The token of the language to translate to, which a multilingual model begins with."""
        if not self.languages:
            return None
        language = self.languages.split(",")[1]
        known = self.tokenizer.get_vocab()
        if language not in known:
            raise InvalidSetting([f"languages: the model's tokenizer has no token '{language}'"])
        return int(known[language])

    def prepare(self, seed: int) -> Prepared:
        """See :class:`Task`. Training is done once a machine."""
        parts = _parts(self, seed)
        config, writing = self.plan()
        model = translation.encoder_decoder(config, writing, self._device())
        if self.model != SMALL:
            model, new = language_models.load(model, self.folder())
            if new:
                raise InvalidSetting([f"model: the checkpoint lacks {', '.join(new)}"])
            translation.finished(model, writing)
        if self.tune or self.model == SMALL:
            schedule = finetuning.Schedule(self.epochs, self.lr, self.batch_size)
            begin = f"seq2seq|{state_hash(model)}|{parts.hash}"
            key = f"{begin}|{schedule}|{finetuning.recipe()}|{seed}"
            done = cached(key, lambda: self._train(model, parts.train, schedule, seed))
            model = deserialize(done, self.architecture())
        fingerprint = Fingerprint(state_hash(model), parts.hash)
        return Prepared(model.eval(), parts.train, parts.validation, fingerprint)

    def _device(self) -> str:
        """Where a model is made: one that is loaded needs no values before."""
        return "cpu" if self.model == SMALL else "meta"

    def _train(
        self, model: nn.Module, train: Split, schedule: finetuning.Schedule, seed: int
    ) -> bytes:
        log.warning("training on %d pairs, %d epochs; done once", len(train), schedule.epochs)
        loss, threads = self.training_loss(train.labels), int(self.model == SMALL)
        finetuning.fit(model, partial(self.forward, model), loss, train, schedule, seed, threads)
        return serialize(model)

    def test(self, seed: int) -> Split:
        """See :class:`Task`."""
        return _parts(self, seed).test

    def forward(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Logits (b, t, vocabulary) of training inputs; of others the ids written, (b, longest)."""
        return translation.run(model, inputs)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the tokens of translations, in nats."""
        logits, ahead = self.predictions(outputs, labels)
        return nn.functional.cross_entropy(logits.float(), ahead)

    def predictions(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Task.predictions`: of the tokens of translations, without padding."""
        ahead = labels[:, : outputs.shape[1]]
        counts = ahead != pairs.IGNORED
        return outputs[counts], ahead[counts]

    def observe(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What each sentence adds to the scores: :func:`trainables.scoring.translations.counts`."""
        ids = outputs.long().cpu().tolist()
        found = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        references = [pairs.bytes_text(row) for row in labels.cpu()]
        return translations.counts([text.strip() for text in found], references)

    def score(self, observed: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, float]:
        """``bleu`` and ``chrf`` of all sentences together, fractions."""
        return translations.scores(observed)

    def correct(self, observed: Mapping[str, Tensor], labels: Tensor) -> None:
        """A translation is neither right nor wrong."""


class _Parts(NamedTuple):
    train: pairs.TaughtSplit
    validation: TextSplit
    test: TextSplit
    hash: str


@cache
def _parts(task: Seq2Seq, seed: int) -> _Parts:
    """The splits, and the hash of all that decides which text is where."""
    train, *others = pairs.divided(task.data, task.source, task.target, seed)
    for note in train.notes:
        log.warning(note)
    train, writing = train.first(task.limit), task.plan()[1]
    taught = pairs.target_ids(task.tokenizer, train.targets, task.max_length, writing.end)
    learned = pairs.TaughtSplit(_read(task, train, taught), writing.start)
    validation, test = (_read(task, part, pairs.text_bytes(part.targets)) for part in others)
    digest = hashlib.sha256()
    for split in (learned, validation, test):
        digest.update(split.digest.encode() + split.labels.numpy().tobytes())
    return _Parts(learned, validation, test, digest.hexdigest()[:16])


def _read(task: Seq2Seq, part: pairs.Pairs, labels: NDArray[Any]) -> TextSplit:
    """The sources as tokens."""
    sources = [task.prefix + text for text in part.sources]
    key = hashlib.sha256(task.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    found = tokenise(task.tokenizer, key, sources, labels, task.max_length)
    if found.cut:
        said = (found.cut, len(sources), task.max_length)
        log.warning("%d of %d texts are longer than %d tokens and lose their end", *said)
    return found.texts

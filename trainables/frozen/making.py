"""Features as they are made, and whether those that were found are what a model gives now."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from trainables.frozen import forward_pass
from trainables.frozen.cuts import Capture, near
from trainables.frozen.feature_files import STORABLE, Column, FeatureCacheError, Ragged, Writer
from trainables.frozen.feature_reader import Reader
from trainables.frozen.feature_split import MASK
from trainables.frozen.feature_store import Store
from trainables.hardware.sending import send
from trainables.splits import Inputs, Split

LOG = logging.getLogger("paretune")
ROW_BYTES = 8  # of a row number
SAMPLE = 4  # examples on which a cut is tried, and found features are held against fresh ones

_samples: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by the split itself, not what it equals


def sample_of(split: Split) -> Inputs:
    """The first examples, fetched once: a trial that asks for a known cut decodes no images."""
    if split not in _samples:
        _samples[split] = split.inputs(torch.arange(min(SAMPLE, len(split))))
    found: Inputs = _samples[split]
    return found


_seen: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()


def was_made(key: str, by: object) -> None:
    """Note that features are of this cut or model, as made by this process."""
    _seen.setdefault(by, set()).add(key)


def is_fresh(found: Reader, key: str, by: object, capture: Capture, split: Split) -> bool:
    """Whether the first rows found are what ``capture`` gives now: looked at once in a process.

    A key covers what is known to decide the values. What is not, as a function that a model calls,
    is seen here, and said.
    """
    if key in _seen.get(by, ()):
        return True
    inputs = sample_of(split)
    with torch.inference_mode():
        fresh = capture(inputs)
    rows = torch.arange(min(SAMPLE, len(split)))
    same = found.columns.keys() == fresh.keys() and all(
        _same(value, _steps(fresh[name], found.columns[name], inputs), found.columns[name])
        for name, value in found.fetch(rows).items()
    )
    if same:
        was_made(key, by)
    else:
        LOG.warning("cached features %s are not what the model gives now: made anew", key[:12])
    return same


def _same(kept: Tensor | Ragged, fresh: Tensor | Ragged, column: Column) -> bool:
    if isinstance(kept, Ragged) and isinstance(fresh, Ragged):
        lengths = torch.equal(kept[1], fresh[1].cpu())
        return lengths and _same(kept[0], fresh[0], column)
    if isinstance(kept, Ragged) or isinstance(fresh, Ragged):
        return False
    return near(kept.to(column.dtype), fresh.cpu().to(column.dtype))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block no layer drops values or moves its statistics."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def build(
    store: Store,
    key: str,
    capture: Capture,
    split: Split,
    dtype: torch.dtype,
    after: str,
    device: torch.device,
) -> Reader:
    """Run the pass and store its values, whichever process comes first."""
    sample = send(sample_of(split), device)
    with torch.inference_mode():
        columns = {
            name: _column(name, value, sample, dtype) for name, value in capture(sample).items()
        }
    rows = split.views * len(split)
    values = sum(int(_rows_of(column, split) * column.nbytes) for column in columns.values())
    expected = values + rows * ROW_BYTES

    def fill(writer: Writer) -> None:
        def sink(given: Tensor, inputs: Inputs, values: dict[str, Tensor]) -> None:
            kept = {name: _steps(value, columns[name], inputs) for name, value in values.items()}
            writer.add(given, kept)

        LOG.info("%s rows through all up to %s, %.0f MB", f"{rows:,}", after, expected / 1e6)
        pace = forward_pass.run(capture, split, sink, device)
        LOG.info(
            "%s rows in %.1f s: %.1f a second, %s at a time",
            *(f"{rows:,}", pace.seconds, pace.rate, pace.size),
        )

    return store.get(key, columns, expected, fill, {"after": after, "split": split.digest})


def _column(name: str, value: Tensor, inputs: Inputs, dtype: torch.dtype) -> Column:
    kept = dtype if value.dtype == torch.float32 else value.dtype
    if kept not in STORABLE:
        raise FeatureCacheError(f"'{name}' holds {value.dtype}, which the cache can't keep")
    mask = None if isinstance(inputs, Tensor) else inputs.get(MASK)
    ragged = mask is not None and value.ndim >= 2 and value.shape[:2] == mask.shape
    return Column(kept, tuple(value.shape[2 if ragged else 1 :]), ragged, value.dtype)


def _rows_of(column: Column, split: Split) -> float:
    """Rows to store, or steps: these estimated by examples from all over the split."""
    rows = split.views * len(split)
    if not column.ragged:
        return rows
    some = torch.linspace(0, rows - 1, min(256, rows)).long()
    inputs = split.inputs(some)
    mask = inputs[MASK] if not isinstance(inputs, Tensor) else inputs
    return rows * mask.bool().sum().item() / len(some)


def _steps(value: Tensor, column: Column, inputs: Inputs) -> Tensor | Ragged:
    if not column.ragged or isinstance(inputs, Tensor):
        return value
    mask = inputs[MASK].bool()
    return Ragged((value[mask], mask.sum(1)))

"""Fewer blocks: those go that change least what passes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from compression.calibration import Calibration, evaluating
from compression.edits import EDITS, Edit
from compression.edits.keep_channels import is_depthwise
from compression.kinds import kind_of
from compression.methods.base import METHODS, Plan, Scene
from compression.methods.none import NoMethod
from compression.methods.structured.structural import Structural
from compression.registry import FloatRange, IntRange, InvalidSetting, Values, knob


@METHODS.register("drop_blocks")
class DropBlocks(Structural):
    """Removes the n blocks in a row whose input and output are most alike in angle.

    ``d(l) = mean arccos(cos(x_l, x_{l+n})) / pi`` over calibration examples, x_l what goes into
    block l: a vector for each real position of a sequence, else one for each example. A stack is a
    row of blocks of one class in a ModuleList or Sequential, each of which takes what the one
    before gives, in the same shape, and whose layers are all the rule's. Where no row is n long
    (the stages of a convolutional network), the longest is taken first and the rest as above.

    Stored bytes: those of the other blocks, ``4 m n`` a weight.

    Gromov et al.: The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887 (which
    looks at the last token only; healing is the recovery that follows).
    """

    catalogue_id = "001-18"
    count: int = knob(0, IntRange(0, 1 << 10), help="blocks to remove; 0 = by share")
    share: float = knob(
        0.25,
        FloatRange(0.0, 1.0),
        Values((0.125, 0.25, 0.5)),
        when={"count": (0,)},
        help="share of the blocks to remove, rounded",
    )

    def refusals(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[str]:
        """See :meth:`Method.refusals`; or no stack of blocks is there."""
        yield from super().refusals(model, layers)
        stacks = [row for row in _rows_of_a_class(model) if len(row) > 1]
        if not any(_is_all_of(Scene(model, layers), name) for row in stacks for name in row):
            yield f"{self.name}: no stack of equal blocks has all its layers among the targets"

    def plan(self, scene: Scene) -> Plan:
        """See :meth:`Method.plan`."""
        calibration = self.examples(scene)
        rows = find_rows(scene, calibration)
        blocks = sum(map(len, rows))
        count = self.count or round(self.share * blocks)
        if not blocks and (self.count or self.share):
            raise InvalidSetting([f"{self.name}: found no stack of equal blocks among the layers"])
        if count > blocks:
            text = f"{self.name}.count: {count} blocks asked, there are {blocks} to remove"
            raise InvalidSetting([text])
        edits, notes = list[Edit](), list[str]()
        while len(edits) < count:
            width = min(count - len(edits), max(map(len, rows)))
            distances = angles(scene.model, calibration, rows, width)
            row, start = min(distances, key=distances.__getitem__)
            gone = rows[row][start : start + width]
            edits += [EDITS.build("bypass", {"module": name}) for name in gone]
            notes.append(f"{', '.join(gone)}: angular distance {distances[row, start]:.4f}")
            rest = [rows[row][:start], rows[row][start + width :]]
            rows = [*rows[:row], *filter(None, rest), *rows[row + 1 :]]
        return Plan(dict.fromkeys(scene.layers, NoMethod()), tuple(edits), {}, tuple(notes))


@dataclass
class _Seen:
    """What went through a block, if it is one tensor in and one of that shape out."""

    first: Tensor
    output: Any

    @property
    def fits(self) -> bool:
        """Whether the block could be left out."""
        return isinstance(self.output, Tensor) and self.output.shape == self.first.shape


@dataclass
class _Watch:
    """Keeps what goes through the blocks in one forward pass."""

    model: nn.Module
    names: Sequence[str]
    seen: dict[str, list[_Seen]] = field(default_factory=dict)

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            first = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(first, Tensor):
                self.seen.setdefault(name, []).append(_Seen(first, output))

        return hook

    @torch.no_grad()
    def run(self, calibration: Calibration, size: int = 0, count: int = 0) -> Iterator[Any]:
        """Batch after batch, each with what was seen of it under ``seen``."""
        with ExitStack() as hooks, evaluating(self.model):
            for name in self.names:
                module = self.model.get_submodule(name)
                handle = module.register_forward_hook(self._hook(name), with_kwargs=True)
                hooks.callback(handle.remove)
            for batch in calibration.batches(size, count):
                self.seen.clear()
                calibration.forward(self.model, batch)
                yield batch


def find_rows(scene: Scene, calibration: Calibration) -> list[list[str]]:
    """The rows of blocks that can be left out, by dotted names."""
    stacks = [row for row in _rows_of_a_class(scene.model) if len(row) > 1]
    watch = _Watch(scene.model, [name for row in stacks for name in row])
    for _ in watch.run(calibration, 1, 1):
        pass
    found = []
    for row in stacks:
        part: list[str] = []
        for name in row:
            seen = watch.seen.get(name, [])
            fits = len(seen) == 1 and seen[0].fits and _is_all_of(scene, name)
            if part and (not fits or watch.seen[part[-1]][0].output is not seen[0].first):
                found.append(part)
                part = []
            part = [*part, name] if fits else []
        found += [part] if part else []
    return found


def _rows_of_a_class(model: nn.Module) -> Iterator[list[str]]:
    """Neighbours of one class in ModuleLists and Sequentials.

    A single layer and a Sequential are no blocks: they add nothing to their input.
    """
    for path, container in model.named_modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            for kind, members in groupby(container.named_children(), lambda item: type(item[1])):
                if not issubclass(kind, nn.Sequential | nn.ModuleList):
                    row = [(f"{path}.{n}" if path else n, m) for n, m in members]
                    yield [name for name, member in row if any(member.children())]


def _is_all_of(scene: Scene, block: str) -> bool:
    """Whether all compressible layers of a block are the rule's."""
    inner = scene.model.get_submodule(block).named_modules()
    layers = [
        f"{block}.{name}" for name, module in inner if kind_of(module) and not is_depthwise(module)
    ]
    return bool(layers) and scene.layers.keys() >= set(layers)


def angles(
    model: nn.Module, calibration: Calibration, rows: Sequence[Sequence[str]], width: int
) -> dict[tuple[int, int], float]:
    """Mean angular distance in [0, 1] over ``width`` blocks, by row and first block in it."""
    windows = {
        (i, start): (row[start], row[start + width - 1])
        for i, row in enumerate(rows)
        for start in range(len(row) - width + 1)
    }
    watch = _Watch(model, sorted({name for window in windows.values() for name in window}))
    sums, count = dict.fromkeys(windows, 0.0), 0
    for batch in watch.run(calibration):
        mask = calibration.mask(batch)
        for window, (first, last) in windows.items():
            before, after = watch.seen[first][0].first, watch.seen[last][0].output
            distances = _distances(before, after, mask)
            sums[window] += float(distances.sum())
        count += len(distances)
    return {window: total / count for window, total in sums.items()}


def _distances(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    """``arccos(cos) / pi`` of each vector, (k,)."""
    if before.ndim == 3:
        real = before.new_ones(before.shape[:2]) if mask is None else mask.to(before.device)
        x, y = (value[real.bool()] for value in (before, after))
    else:
        x, y = before.flatten(1), after.flatten(1)
    cosine = nn.functional.cosine_similarity(x.double(), y.double(), dim=1)
    return cosine.clamp(-1, 1).arccos() / torch.pi

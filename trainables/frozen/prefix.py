"""Where a model is divided: what stays the same for all trials, and what a trial changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from compression.layers import packed_of
from compression.model import trained_rest
from compression.rules import compression_of
from trainables.frozen import block_cut, fx_cut
from trainables.frozen.cuts import TOLERANCE, Cut, NoCut, near, one_line
from trainables.frozen.identity import Unidentified
from trainables.splits import Inputs, map_inputs
from trainables.tasks.base import Task


def changed_layers(model: nn.Module, dense: nn.Module) -> tuple[str, ...]:
    """Dotted names of the modules in which a compressed model differs from the dense one.

    These are the layers with a packed weight or an adapter, those trained beside adapters (norms),
    and what a structure edit replaced.
    Other tensors may differ too (``rest``): that is seen in their content.
    """
    done = compression_of(model)
    found = {
        name
        for name, entry in done.layers.items()
        if entry.adapted or packed_of(model.get_submodule(name)) is not None
    }
    found |= {n.rpartition(".")[0].removesuffix(".base_layer") for n in trained_rest(model)}
    if done.edits:
        found |= _edited(dict(model.named_modules()), dict(dense.named_modules()), found)
    return tuple(sorted(outermost(found)))


def _edited(
    now: Mapping[str, nn.Module], then: Mapping[str, nn.Module], known: Collection[str]
) -> set[str]:
    """Modules of another type or with tensors of other shapes, and those that lack a part."""
    found = set()
    for name in now.keys() | then.keys():
        if any(name == k or name.startswith(f"{k}.") for k in known):
            continue
        if name not in now or name not in then:
            found.add(name.rpartition(".")[0])
        elif type(now[name]) is not type(then[name]) or _sizes(now[name]) != _sizes(then[name]):
            found.add(name)
    return found


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: tuple(tensor.shape) for name, tensor in own}


def outermost(names: Iterable[str]) -> frozenset[str]:
    """Those names that lie within no other one."""
    found = set(names)
    return frozenset(n for n in found if not any(n.startswith(f"{other}.") for other in found))


Find = Callable[[Task, nn.Module, frozenset[str], Inputs], Cut | NoCut]

_found: WeakKeyDictionary[nn.Module, dict[object, Cut | NoCut]] = WeakKeyDictionary()


def find_cut(task: Task, model: nn.Module, changed: Collection[str], sample: Inputs) -> Cut | NoCut:
    """The last place of the dense ``model`` before which nothing depends on ``changed`` modules.

    torch.fx divides models that it can trace, at any depth; other ones are divided between the
    blocks of their longest stack. The answer is tried on the ``sample``, a few examples, and
    remembered for the model.
    """
    if reason := _training_part(model):
        return NoCut(reason)
    names = outermost(changed)
    known = _found.setdefault(model, {})
    asked = (type(task), str(task), names)
    if asked not in known:
        known[asked] = _find(task, model, names, sample)
    return known[asked]


def _find(task: Task, model: nn.Module, names: frozenset[str], sample: Inputs) -> Cut | NoCut:
    if not names:
        return NoCut("no layer is changed")
    if "" in names:
        return NoCut("the model's own structure is changed")
    modules = dict(model.named_modules())
    if missing := sorted(names - modules.keys()):
        return NoCut(f"the model has no '{missing[0]}'")
    if len(sample if isinstance(sample, Tensor) else next(iter(sample.values()))) < 2:
        return NoCut("one example is too few to see what depends on the batch")
    reasons = []
    for kind in (fx_cut, block_cut):
        with torch.inference_mode():
            found = _tried(kind.find, task, model, names, sample)
        if isinstance(found, Cut):
            return found
        reasons.append(found.reason)
    return NoCut("; ".join(dict.fromkeys(reasons)))


def _tried(
    find: Find, task: Task, model: nn.Module, names: frozenset[str], sample: Inputs
) -> Cut | NoCut:
    try:
        cut = find(task, model, names, sample)
    except Unidentified as error:
        return NoCut(str(error))
    if isinstance(cut, NoCut):
        return cut
    try:
        return _checked(cut, task, model, sample)
    except Exception as error:  # a model's own code, divided, may raise anything
        return NoCut(f"divided after {cut.after} the model does not run ({one_line(error)})")


def _checked(cut: Cut, task: Task, model: nn.Module, sample: Inputs) -> Cut | NoCut:
    """The cut, if the prefix is deterministic and the rest gives the whole model's outputs."""
    capture, resume = cut.capture(model), cut.resume(model)
    with torch.random.fork_rng(devices=[]):
        values, again = capture(sample), capture(sample)
        if any(not torch.equal(values[key], again[key]) for key in values):
            return NoCut("two runs over the same examples differ")
        expected = task.forward(model, sample)
        if not torch.equal(expected, task.forward(model, sample)):
            return NoCut("two runs over the same examples differ")
        fewer = capture(map_inputs(lambda tensor: tensor[:-1], sample))
        if not all(near(fewer[key], value[:-1]) for key, value in values.items()):
            return NoCut(f"the values at {cut.after} depend on the other examples of the batch")
        outputs = resume(with_inputs(cut, sample, values))
    if outputs.shape != expected.shape:
        return NoCut(f"divided after {cut.after} the model gives outputs of another shape")
    gap = (outputs - expected).abs().max().item() if outputs.numel() else 0.0
    if not gap <= TOLERANCE * max(1.0, expected.abs().max().item()):
        return NoCut(f"divided after {cut.after} the model's outputs differ by {gap:.2g}")
    return cut


def _training_part(model: nn.Module) -> str:
    """A layer that would drop values, or move its statistics, each time that it is run."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        drops = any(word in kind for word in ("Dropout", "DropPath", "StochasticDepth"))
        moves = isinstance(module, _BatchNorm | _InstanceNorm) and module.track_running_stats
        if module.training and (drops or moves):
            return f"'{name}' ({kind}) is in training mode: prepare() has to give model.eval()"
    return ""


def with_inputs(cut: Cut, inputs: Inputs, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :meth:`Cut.resume` takes: the values, with the model's named inputs if it needs them."""
    if not cut.keeps_inputs or isinstance(inputs, Tensor):
        return dict(values)
    return {**inputs, **values}

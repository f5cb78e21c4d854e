"""Dividing a model that torch.fx can trace, between any two of its operations."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from compression.kinds import kind_of
from trainables.frozen.cuts import Capture, Cut, NoCut, one_line, tensors_within
from trainables.frozen.forward_pass import device_of
from trainables.frozen.identity import below, code_hash
from trainables.hardware.sending import send_tensor
from trainables.splits import Inputs
from trainables.tasks.base import Forward, Task

ROOT = "model."


class _Call(nn.Module):
    """A task's forward as a module: what is traced, and where the graphs find the modules."""

    def __init__(
        self, task: Task, model: nn.Module, constants: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.task, self.model = task, model
        self.training = model.training
        for name, tensor in (constants or {}).items():
            setattr(self, name, send_tensor(tensor, device_of(model)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.task.forward(self.model, inputs)


class _Stand(fx.Proxy):
    """A traced value that is a tensor to those who ask: a task does, of inputs and outputs."""

    __class__ = property(lambda self: Tensor)


class _Tracer(fx.Tracer):
    """Looks only into modules that contain a changed one."""

    def __init__(self, changed: frozenset[str]) -> None:
        super().__init__()
        self.changed = changed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See the class."""
        name = module_qualified_name.removeprefix("model").removeprefix(".")
        return bool(name) and not any(c.startswith(f"{name}.") for c in self.changed)

    def create_arg(self, a: Any) -> Any:
        """See the base class; it would take :class:`_Stand` for a tensor."""
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See :class:`_Stand`."""
        sizes = node.target in (getattr, operator.getitem, "size")
        return super().proxy(node) if sizes else _Stand(node, self)


class _Kinds(NamedTuple):
    """The nodes of a graph by what they depend on."""

    fixed: set[fx.Node]  # on parameters alone
    before: set[fx.Node]  # on the inputs
    behind: set[fx.Node]  # on a changed layer; the output too


@dataclass(frozen=True, eq=False)
class FxCut(Cut):
    """Two graphs over the same modules: inputs to values, values to outputs."""

    task: Task = field(kw_only=True)
    prefix: fx.Graph = field(kw_only=True)
    rest: fx.Graph = field(kw_only=True)
    constants: Mapping[str, Tensor] = field(kw_only=True)
    """Tensors in the code of the task's forward, as those that normalise the inputs."""

    def capture(self, model: nn.Module) -> Capture:
        """See :class:`Cut`."""
        module: Capture = self.prefix_module(model)
        return module

    def prefix_module(self, model: nn.Module) -> fx.GraphModule:
        """The prefix as a module, which can be optimised as a whole."""
        return fx.GraphModule(_Call(self.task, model, self.constants), self.prefix, "Prefix")

    def resume(self, model: nn.Module) -> Forward:
        """See :class:`Cut`."""
        module = fx.GraphModule(_Call(self.task, model, self.constants), self.rest, "Rest")
        forward: Forward = module.forward  # called as a module it would print errors
        return forward


def find(task: Task, model: nn.Module, changed: frozenset[str], sample: Inputs) -> FxCut | NoCut:
    """The cut nearest to the changed modules."""
    if not isinstance(sample, Tensor):
        return NoCut("torch.fx divides models of one input tensor")
    root = _Call(task, model)
    try:
        graph = _Tracer(changed).trace(root)
    except Exception as error:  # a model's own code, run on stand-ins, may raise anything
        return NoCut(f"torch.fx cannot trace {type(model).__name__} ({one_line(error)})")
    if problem := _direct_use(graph, changed):
        return NoCut(problem)
    kinds = _kinds(graph, changed)
    ends = [n for n in graph.nodes if n in kinds.before and kinds.behind & n.users.keys()]
    prefix, state = _prefix(graph, ends, root)
    if not state:
        return NoCut("a changed layer comes first")
    values = _values(fx.GraphModule(root, prefix).forward, ends, sample)
    if isinstance(values, NoCut):
        return values
    kept = {node: f"cut{i}" for i, node in enumerate(n for n in ends if values[n] is _ROWS)}
    if not kept:
        return NoCut("no tensor passes from the frozen part to the changed layers")
    prefix, state = _prefix(graph, list(kept), root, kept)
    return FxCut(
        key=_key(prefix, root),
        state=tuple(sorted(name.removeprefix(ROOT) for name in state)),
        after=", ".join(_place(node) for node in kept),
        names=tuple(kept.values()),
        first=_first(graph, changed, kept, model),
        task=task,
        prefix=prefix,
        rest=_rest(graph, kinds, kept, values),
        constants=_constants(graph, root),
    )


def _constants(graph: fx.Graph, root: nn.Module) -> dict[str, Tensor]:
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name: getattr(root, name) for name in names if not name.startswith(ROOT)}


def _within(target: object, changed: frozenset[str]) -> bool:
    name = str(target).removeprefix(ROOT)
    return name in changed or any(name.startswith(f"{c}.") for c in changed)


def _direct_use(graph: fx.Graph, changed: frozenset[str]) -> str:
    for node in graph.nodes:
        if node.op == "get_attr" and _within(node.target, changed):
            name = str(node.target).removeprefix(ROOT)
            return f"'{name}' is used otherwise than by calling its layer"
    return ""


def _kinds(graph: fx.Graph, changed: frozenset[str]) -> _Kinds:
    kinds = _Kinds(set(), set(), set())
    for node in graph.nodes:
        needs = set(node.all_input_nodes)
        is_changed = node.op == "call_module" and _within(node.target, changed)
        if is_changed or node.op == "output" or needs & kinds.behind:
            kinds.behind.add(node)
        elif node.op == "placeholder" or needs & kinds.before:
            kinds.before.add(node)
        else:
            kinds.fixed.add(node)
    return kinds


def _prefix(
    graph: fx.Graph,
    ends: list[fx.Node],
    root: nn.Module,
    names: Mapping[fx.Node, str] | None = None,
) -> tuple[fx.Graph, set[str]]:
    """The graph of ``ends``, a tuple or by name, and the tensors that it reads."""
    needed: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        if (node := waiting.pop()) not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    found, copies, state = fx.Graph(), dict[fx.Node, fx.Node](), set[str]()
    for node in graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = found.node_copy(node, copies.__getitem__)
            if node.op == "call_module":
                state.update(tensors_within(root, str(node.target)))
            if node.op == "get_attr" and str(node.target).startswith(ROOT):
                state.add(str(node.target))
    found.output({names[n]: copies[n] for n in ends} if names else tuple(copies[n] for n in ends))
    return found, state


_ROWS = object()  # a tensor with examples along dimension 0: what is stored


def _values(
    run: Callable[[Tensor], tuple[Any, ...]], ends: list[fx.Node], sample: Tensor
) -> dict[fx.Node, Any] | NoCut:
    """For each end :data:`_ROWS` or a constant, in which None stands for the batch size."""
    sizes = (len(sample), max(1, len(sample) - 1))
    runs = [run(sample[:size]) for size in sizes]
    found = {}
    for node, *values in zip(ends, *runs, strict=True):
        if isinstance(values[0], Tensor):
            shapes = [tuple(v.shape) for v in values]
            if any(s[:1] != (n,) for s, n in zip(shapes, sizes, strict=True)):
                return NoCut(f"a value at the cut ({node.name}) has no row for each example")
            found[node] = _ROWS
        elif (constant := _constant(values, sizes)) is NotImplemented:
            return NoCut(f"a {type(values[0]).__name__} at the cut ({node.name}) depends on inputs")
        else:
            found[node] = constant
    return found


def _constant(values: list[Any], sizes: tuple[int, int]) -> Any:
    if all(isinstance(v, tuple) and len(v) == len(values[0]) for v in values):
        items = [_constant(list(pair), sizes) for pair in zip(*values, strict=True)]
        return NotImplemented if NotImplemented in items else tuple(items)
    if values[0] == values[1] and values[0] is not None:
        return values[0]
    return None if tuple(values) == sizes else NotImplemented


def sized(template: Any, like: Tensor) -> Any:
    """``template`` with the batch size of ``like`` for each None."""
    if isinstance(template, tuple):
        return tuple(sized(item, like) for item in template)
    return len(like) if template is None else template


def _rest(
    graph: fx.Graph, kinds: _Kinds, kept: Mapping[fx.Node, str], values: Mapping[fx.Node, Any]
) -> fx.Graph:
    """The graph from the kept values by name to the outputs."""
    rest = fx.Graph()
    given = rest.placeholder("values")
    copies = {n: rest.call_function(operator.getitem, (given, key)) for n, key in kept.items()}
    some = next(iter(copies.values()))
    for node, constant in values.items():
        if constant is not _ROWS:
            copies[node] = rest.call_function(sized, (constant, some))

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # what depends on parameters alone is computed anew
            copies[node] = rest.node_copy(node, copy)
        return copies[node]

    for node in graph.nodes:
        if node in kinds.behind:
            copy(node)
    return rest


def _place(node: fx.Node) -> str:
    return str(node.target).removeprefix(ROOT) if node.op == "call_module" else node.name


def _first(
    graph: fx.Graph, changed: frozenset[str], kept: Mapping[fx.Node, str], model: nn.Module
) -> dict[str, str]:
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target).removeprefix(ROOT) in changed:
            calls.setdefault(str(node.target).removeprefix(ROOT), []).append(node)
    found = {}
    for name, nodes in calls.items():
        read = nodes[0].args[0] if nodes[0].args else None
        plain = len(nodes) == 1 and kind_of(model.get_submodule(name)) is not None
        if plain and isinstance(read, fx.Node) and read in kept:
            found[name] = kept[read]
    return found


def _key(prefix: fx.Graph, root: nn.Module) -> str:
    targets = {str(n.target) for n in prefix.nodes if n.op == "call_module"}
    called = [n.target for n in prefix.nodes if n.op == "call_function"]
    constants = sorted(_constants(prefix, root).items())
    code = code_hash(below(root, sorted(targets)), called, constants)
    return hashlib.sha256(f"fx|{prefix.python_code('self').src}|{code}".encode()).hexdigest()

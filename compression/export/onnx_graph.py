"""From a model to an ONNX graph in which compressed weights stand in their packed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from compression.export.base import Source, lossless, quiet
from compression.export.forms import Form, Product
from compression.export.onnx_weights import OURS, WeightWriter, unpacking
from compression.registry import InvalidSetting

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 2 * 10**9
"""Bytes of weights that one file can hold."""
WORTH = 256
"""Bytes that storing a tensor in half precision has to save: a Cast is a node of its own."""
FOLDED = 1024
"""Values up to which constants are computed before writing: larger ones may grow by it."""


class Packed(NamedTuple):
    """A compressed weight: its form, and its own shape."""

    form: Form
    shape: tuple[int, ...]


class _Called(nn.Module):
    """A model as the task calls it: tensors in, one tensor out."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.model = source.model
        self._source = source

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._source.outputs(self.model, *tensors)


def traced(source: Source, opset: int) -> ir.Model:
    """The graph of a model with its weights dense, not optimised, initialisers by their names.

    Raises:
        InvalidSetting: PyTorch's exporter cannot follow the model's code, or lacks the opset.
    """
    names = list(source.named)
    with quiet("torch.onnx", "torch.export", "onnxscript"), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                _Called(source).eval(),
                tuple(source.named.values()),
                input_names=names,
                output_names=["output"],
                opset_version=opset,
                dynamic_shapes=(tuple(map(_dynamic, source.named.values())),),
                dynamo=True,
                optimize=False,
                verbose=False,
            )
        except Exception as error:  # whatever the model's own code raises while it is followed
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidSetting([f"onnx: the model cannot be traced: {reason}"]) from error
    found: ir.Model = program.model
    return found


def _dynamic(tensor: Tensor) -> dict[int, Any]:
    """Examples vary in number, and tokens in length."""
    free = 1 if tensor.is_floating_point() else 2
    return {axis: torch.export.Dim.AUTO for axis in range(min(free, tensor.ndim))}


def pack_weights(model: ir.Model, weights: Mapping[str, Packed]) -> dict[str, bool]:
    """Put forms in place of dense initialisers, by their names.

    While constants are folded these weights are inputs of the graph, so that nothing is computed
    from them beforehand.

    Returns:
        Of each weight that the graph uses, whether products are computed by its form; else the
        matrix is made of it first.
    """
    from onnxscript.optimizer import optimize_ir

    graph = model.graph
    held = {name: graph.initializers.pop(name) for name in weights if name in graph.initializers}
    graph.inputs.extend(held.values())
    for value in held.values():
        value.const_value = None
    optimize_ir(model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    for value in held.values():
        graph.inputs.remove(value)
    used = {name: value for name, value in held.items() if value.uses()}
    found = {name: _replace(model, value, weights[name]) for name, value in used.items()}
    for value in list(graph.initializers.values()):
        _narrow(graph, value)
    graph.sort()
    _import_domains(model)
    return found


def _import_domains(model: ir.Model) -> None:
    domains = {node.domain for node in model.graph}
    if OURS in domains:
        function = unpacking(model.opset_imports[""])
        model.functions[function.identifier()] = function
    model.opset_imports.update(dict.fromkeys(domains - {""}, 1))


def serialized(model: ir.Model, metadata: Mapping[str, str]) -> bytes:
    """The file, without what no runtime needs: remarks, shapes of inner values, names of nodes.

    Raises:
        InvalidSetting: it is larger than one file can be.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    common.DeduplicateInitializersPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.update(metadata)
    model.producer_name, model.producer_version = "paretune", None
    tensors = [value.const_value for value in model.graph.initializers.values()]
    size = sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
    if size > LARGEST:
        raise InvalidSetting([f"onnx: one file holds {LARGEST} bytes, and the weights have {size}"])
    proto: Any = ir.to_proto(model)
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.ClearField("name")
    data: bytes = proto.SerializeToString()
    return data


def _replace(model: ir.Model, weight: ir.Value, packed: Packed) -> bool:
    """Compute the only product with a weight by its form; anything else from the matrix."""
    writer = WeightWriter(model.graph, model.opset_imports[""], str(weight.name))
    (node, index), *others = weight.uses()
    swap = _SWAPS.get((node.op_type, index))
    if swap is not None and not others and swap(writer, node, packed):
        return True
    weight.replace_all_uses_with(writer.weight(packed.form, packed.shape))
    return False


def _gemm(writer: WeightWriter, node: ir.Node, packed: Packed) -> bool:
    """``Gemm(x, W, b, transB=1)``."""
    plain = {"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0}
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if "transB" not in given or {**plain, **given} != plain:
        return False
    product = writer.linear(packed.form, node.inputs[0])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    _put(node, product if bias is None else writer.op("Add", product, bias))
    return True


def _transpose(writer: WeightWriter, node: ir.Node, packed: Packed) -> bool:
    """``MatMul(x, Transpose(W))``."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or (uses[0][0].op_type, uses[0][1]) != ("MatMul", 1):
        return False
    product = uses[0][0]
    _put(product, writer.linear(packed.form, product.inputs[0]))
    _remove(node)
    return True


def _conv(writer: WeightWriter, node: ir.Node, packed: Packed) -> bool:
    """``Conv(x, L R)`` in one group: R with the kernel's size, then L with a kernel of one."""
    form, (outputs, *kernel) = packed.form, packed.shape
    settings = {name: attribute.value for name, attribute in node.attributes.items()}
    if not isinstance(form, Product) or settings.get("group", 1) != 1:
        return False
    first = writer.weight(form.right, (form.rank, *kernel))
    second = writer.weight(form.left, (outputs, form.rank, *([1] * (len(kernel) - 1))))
    inner = writer.op("Conv", node.inputs[0], first, **settings)
    _put(node, writer.op("Conv", inner, second, *node.inputs[2:]))
    return True


_SWAPS = {("Gemm", 1): _gemm, ("Transpose", 0): _transpose, ("Conv", 1): _conv}


def _put(node: ir.Node, value: ir.Value) -> None:
    """A value in place of a node's output."""
    old = node.outputs[0]
    value.shape, value.type = old.shape, old.type
    last = old.is_graph_output()
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    if last:
        old.name, value.name = None, old.name
    _remove(node)


def _remove(node: ir.Node) -> None:
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _narrow(graph: ir.Graph, value: ir.Value) -> None:
    """Store a float32 tensor in half precision where that changes no value."""
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or 2 * tensor.size < WORTH:
        return
    values = lossless(torch.from_numpy(tensor.numpy().copy()))
    if values.dtype != torch.float32:
        writer = WeightWriter(graph, 0, str(value.name))
        value.replace_all_uses_with(writer.floats(values, "half"))
        del graph.initializers[str(value.name)]

"""Forms as ONNX: each stands in the file as it is packed, and is read by operators of ONNX Runtime.

Beside the standard operators there is one of ONNX Runtime's own, ``com.microsoft.MatMulNBits``,
which multiplies by codes of 2, 4 or 8 bits without decoding the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compression.export.forms import Columns, Form, Grid, Lookup, Plain, Product, Sum
from compression.packing import pack

if TYPE_CHECKING:
    import onnx_ir as ir

MICROSOFT = "com.microsoft"
OURS, UNPACK = "paretune", "Unpack"
FP32 = 1  # MatMulNBits.accuracy_level: products of float32, not of int8
BLOCKS = (256, 128, 64, 32, 16)  # entries that one of its scales may cover, at all bits
LEAST_OPSET = {8: 21, 4: 21, 2: 25}
"""From which version of ONNX on DequantizeLinear takes blocks of codes of so many bits."""


def block_of(grid: Grid) -> int | None:
    """The entries to a block of MatMulNBits that suit a grid; None where it can't hold the grid.

    A scale for more entries than a block has is repeated. Rows are padded to whole blocks: the
    largest block that pads least.
    """
    columns = grid.codes.shape[1]
    if grid.bits not in LEAST_OPSET:
        return None
    fitting = [b for b in BLOCKS if grid.size % b == 0 or grid.size >= columns]
    return min(fitting, key=lambda b: (-columns % b, -b), default=None)


def native(grid: Grid, opset: int) -> bool:
    """Whether DequantizeLinear reads the grid."""
    return grid.offset is None and opset >= LEAST_OPSET.get(grid.bits, math.inf)


class WeightWriter:
    """Puts forms into a graph, under names that begin with the layer's.

    Args:
        graph: that initialisers and nodes are added to.
        opset: the version of ONNX.
        layer: whose weight it is.
    """

    def __init__(self, graph: ir.Graph, opset: int, layer: str) -> None:
        from onnx_ir import tape

        self._tape, self._opset, self._layer = tape.Tape(graph), opset, layer
        self._graph = graph

    def op(
        self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """The output of a new node."""
        return self._tape.op(kind, inputs, attributes or None, domain=domain)

    def constant(self, tensor: Tensor, name: str) -> ir.Value:
        """An initialiser with a tensor's own dtype."""
        from onnx_ir.tensor_adapters import TorchTensor

        name = self._fresh(name)
        return self._tape.initializer(TorchTensor(tensor.contiguous(), name=name), name)

    def numbers(self, *values: int) -> ir.Value:
        """An initialiser of int64: shapes, axes, ends."""
        return self.constant(torch.tensor(values), "n")

    def floats(self, tensor: Tensor, name: str) -> ir.Value:
        """Stored in the tensor's dtype, used as float32."""
        value = self.constant(tensor, name)
        return value if tensor.dtype == torch.float32 else self.op("Cast", value, to=1)

    def bits(self, codes: Tensor, bits: int, name: str, signed: bool = False) -> ir.Value:
        """Codes as an initialiser of ONNX's own integers of 2, 4 or 8 bits."""
        import onnx_ir as ir

        kind = ir.DataType[f"{'' if signed else 'U'}INT{bits}"]
        name, octets = self._fresh(name), pack(codes.flatten(), bits).numpy()
        if bits == 8:
            whole = octets.view("int8" if signed else "uint8").reshape(tuple(codes.shape))
            return self._tape.initializer(ir.tensor(whole, kind, name=name), name)
        packed = ir.PackedTensor(octets, kind, shape=tuple(codes.shape), name=name)
        return self._tape.initializer(packed, name)

    def _fresh(self, name: str) -> str:
        full, number = f"{self._layer}.{name}", 1
        while full in self._graph.initializers:
            full, number = f"{self._layer}.{name}{number}", number + 1
        return full

    def weight(self, form: Form, shape: Sequence[int]) -> ir.Value:
        """The weight of a layer, in its own shape."""
        matrix = self.matrix(form)
        return matrix if len(shape) == 2 else self.op("Reshape", matrix, self.numbers(*shape))

    @singledispatchmethod
    def matrix(self, form: Any) -> ir.Value:
        """The matrix (m, n) that a form stands for."""
        raise NotImplementedError(type(form).__name__)

    @matrix.register(Plain)
    def _(self, form: Plain) -> ir.Value:
        return self.floats(form.values, "values")

    @matrix.register(Grid)
    def _(self, form: Grid) -> ir.Value:
        if native(form, self._opset):
            return self._dequantized(form)
        codes = self.digits(form.codes, form.bits, "codes")
        if isinstance(form.zero, Tensor):
            zeros = self.digits(form.zero, form.bits, "zero")
            codes = self.op("Sub", codes, self._spread(zeros, form))
        elif form.offset is None:
            codes = self.op("Sub", codes, self.constant(torch.tensor(form.zero), "zero"))
        steps = self.op("Mul", codes, self._spread(self.floats(form.scale, "scale"), form))
        if form.offset is None:
            return steps
        return self.op("Add", steps, self._spread(self.floats(form.offset, "offset"), form))

    def _dequantized(self, form: Grid) -> ir.Value:
        half = 2 ** (form.bits - 1)
        codes = form.codes if not form.symmetric else (form.codes.int() - half) % 2**form.bits
        inputs = [
            self.bits(codes, form.bits, "codes", signed=form.symmetric),
            self.floats(form.scale, "scale"),
        ]
        if not form.symmetric:
            inputs.append(self.bits(form.zeros, form.bits, "zero"))
        return self.op("DequantizeLinear", *inputs, axis=1, block_size=form.size)

    @matrix.register(Lookup)
    def _(self, form: Lookup) -> ir.Value:
        codes = self.op("Cast", self.digits(form.codes, 4, "codes"), to=7)
        values = self.op("Gather", self.constant(form.table, "table"), codes, axis=0)
        return self.op("Mul", values, self._spread(self.floats(form.scale, "scale"), form))

    @matrix.register(Columns)
    def _(self, form: Columns) -> ir.Value:
        return self.op("Div", self.matrix(form.inner), self.floats(form.divisor, "channels"))

    @matrix.register(Product)
    def _(self, form: Product) -> ir.Value:
        return self.op("MatMul", self.matrix(form.left), self.matrix(form.right))

    @matrix.register(Sum)
    def _(self, form: Sum) -> ir.Value:
        return self.op("Sum", *map(self.matrix, form.parts))

    def _spread(self, groups: ir.Value, form: Grid | Lookup) -> ir.Value:
        """One value a group (m, g) for each entry, (m, n)."""
        return self._repeated(groups, tuple(form.scale.shape), form.size, form.codes.shape[1])

    def _repeated(
        self, groups: ir.Value, shape: tuple[int, ...], times: int, columns: int
    ) -> ir.Value:
        """Each column of (m, g) so often, cut to ``columns``."""
        rows, count = shape
        if count == 1:
            return self.op("Expand", groups, self.numbers(rows, columns))
        apart = self.op("Unsqueeze", groups, self.numbers(2))
        wide = self.op("Expand", apart, self.numbers(rows, count, times))
        flat = self.op("Reshape", wide, self.numbers(rows, count * times))
        if count * times == columns:
            return flat
        return self.op("Slice", flat, self.numbers(0), self.numbers(columns), self.numbers(1))

    def digits(self, codes: Tensor, bits: int, name: str) -> ir.Value:
        """Codes (m, n) packed as in our own file, unpacked by arithmetic to float32.

        See :func:`unpacking`.
        """
        octets = pack(codes.flatten(), bits)
        whole = torch.nn.functional.pad(octets, (0, -len(octets) % bits)).view(-1, bits)
        return self.op(
            UNPACK,
            self.constant(whole, name),
            self.constant(256 ** torch.arange(bits), "places"),
            self.constant(2 ** (bits * torch.arange(8)), "powers"),
            self.numbers(2**bits),
            self.numbers(codes.numel()),
            self.numbers(*codes.shape),
            domain=OURS,
        )

    @singledispatchmethod
    def linear(self, form: Any, x: ir.Value) -> ir.Value:
        """``x @ W.T`` for x (..., n)."""
        return self.op("MatMul", x, self.op("Transpose", self.matrix(form), perm=[1, 0]))

    @linear.register(Columns)
    def _(self, form: Columns, x: ir.Value) -> ir.Value:
        return self.linear(form.inner, self.op("Div", x, self.floats(form.divisor, "channels")))

    @linear.register(Product)
    def _(self, form: Product, x: ir.Value) -> ir.Value:
        return self.linear(form.left, self.linear(form.right, x))

    @linear.register(Sum)
    def _(self, form: Sum, x: ir.Value) -> ir.Value:
        return self.op("Sum", *(self.linear(part, x) for part in form.parts))

    @linear.register(Grid)
    def _(self, form: Grid, x: ir.Value) -> ir.Value:
        block = block_of(form)
        if block is None:
            return self.op("MatMul", x, self.op("Transpose", self.matrix(form), perm=[1, 0]))
        rows, columns = form.codes.shape
        blocks = -(-columns // block)
        padded = torch.nn.functional.pad(form.codes, (0, blocks * block - columns))
        octets = pack(padded.flatten(), form.bits).view(rows, blocks, -1)
        scale = self.floats(form.scale, "scale")
        inputs = [x, self.constant(octets, "codes"), self._by_block(scale, form, block)]
        if not form.symmetric:
            inputs.append(self._block_zeros(form, scale, block))
        return self.op(
            "MatMulNBits",
            *inputs,
            domain=MICROSOFT,
            K=columns,
            N=rows,
            bits=form.bits,
            block_size=block,
            accuracy_level=FP32,
        )

    def _by_block(self, groups: ir.Value, form: Grid, block: int) -> ir.Value:
        """One value a group (m, g) for each block of a row."""
        blocks, count = -(-form.codes.shape[1] // block), form.scale.shape[1]
        if blocks == count:
            return groups
        return self._repeated(groups, tuple(form.scale.shape), form.size // block or 1, blocks)

    def _block_zeros(self, form: Grid, scale: ir.Value, block: int) -> ir.Value:
        """The zero of each block: packed by rows, or as float32 where there is an offset."""
        if form.offset is not None:
            offset = self.floats(form.offset, "offset")
            return self._by_block(self.op("Neg", self.op("Div", offset, scale)), form, block)
        each = form.spread(form.zeros)[:, ::block].to(torch.uint8)
        width = -(-each.shape[1] * form.bits // 8) * 8 // form.bits
        padded = torch.nn.functional.pad(each, (0, width - each.shape[1]))
        return self.constant(pack(padded.flatten(), form.bits).view(len(each), -1), "zero")


def unpacking(opset: int) -> ir.Function:
    """The function of a file that unpacks codes: eight codes of b bits are the digits of b bytes.

    Of constants alone, so that ONNX Runtime computes it once, when it loads the file. Its inputs
    are the bytes (k, b) uint8, ``256**i`` (b,), ``2**(b i)`` (8,), ``2**b`` (1,), the number of
    codes (1,) and the shape of the output, all int64.
    """
    import onnx_ir as ir
    from onnx_ir import tape

    names = ("octets", "places", "powers", "base", "count", "shape")
    octets, places, powers, base, count, shape = (ir.Value(name=name) for name in names)
    steps = tape.Tape()
    zero = steps.op("Constant", [], {"value_ints": [0]})
    one = steps.op("Constant", [], {"value_ints": [1]})
    parts = steps.op("Mul", [steps.op("Cast", [octets], {"to": 7}), places])
    words = steps.op("ReduceSum", [parts, one], {"keepdims": 1})
    found = steps.op("Mod", [steps.op("Div", [words, powers]), base])
    flat = steps.op("Reshape", [found, steps.op("Neg", [one])])
    kept = steps.op("Slice", [flat, zero, count, zero])
    steps.op("Reshape", [steps.op("Cast", [kept], {"to": 1}), shape])
    inputs = [octets, places, powers, base, count, shape]
    last = list(steps.nodes)[-1].outputs
    body = ir.Graph(inputs, last, nodes=list(steps.nodes), opset_imports={"": opset})
    return ir.Function(OURS, UNPACK, graph=body, attributes=[])

"""ONNX files for ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression.export.base import DENSE, EXPORTERS, Exported, Exporter, Inputs, Source
from compression.export.forms import Columns, Grid, Lookup, Plain, Product, Sum, form_of
from compression.export.onnx_graph import Packed, pack_weights, serialized, traced
from compression.export.onnx_weights import block_of, native
from compression.kinds import bare, kind_of
from compression.layers import packed_of
from compression.registry import IntRange, InvalidSetting, knob
from compression.rules import layers_of

READ_EACH_TIME = (
    "what DequantizeLinear reads is decoded in each run; the session option "
    "session.disable_quant_qdq=1 decodes it once, when the file is loaded"
)


@EXPORTERS.register("onnx")
class OnnxRuntime(Exporter):
    """One .onnx file for ONNX Runtime, weights in as many bits as in our own file.

    Linear layers on grids of 2, 4 and 8 bits are multiplied as they are packed (MatMulNBits, in
    float32); other grids are read by DequantizeLinear, or unpacked once at load; factors are two
    products or two convolutions. The traced model is otherwise as PyTorch's exporter gives it, with
    every tensor in half precision that loses nothing by it.
    """

    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    opset: int = knob(21, IntRange(18, 25), help="version of ONNX; least 18, int4 from 21, int2 25")

    def keeps(self, layer: nn.Module) -> str | None:
        """See :class:`Exporter`."""
        packed = packed_of(layer)
        form = None if packed is None else form_of(packed)
        return None if form is None else self._how(form, kind_of(bare(layer)) == "linear")

    @singledispatchmethod
    def _how(self, form: Any, product: bool) -> str:
        """How a form is written, where a product is computed by it, or where its matrix is made."""
        raise NotImplementedError(type(form).__name__)

    @_how.register(Plain)
    def _(self, form: Plain, product: bool) -> str:
        return str(form.values.dtype).removeprefix("torch.")

    @_how.register(Grid)
    def _(self, form: Grid, product: bool) -> str:
        if product and block_of(form):
            return f"MatMulNBits {form.bits} bits"
        how = "DequantizeLinear" if native(form, self.opset) else "unpacked at load"
        return f"{how} {form.bits} bits"

    @_how.register(Lookup)
    def _(self, form: Lookup, product: bool) -> str:
        return "looked up at load 4 bits"

    @_how.register(Columns)
    def _(self, form: Columns, product: bool) -> str:
        return f"{self._how(form.inner, product)}, by columns"

    @_how.register(Product)
    def _(self, form: Product, product: bool) -> str:
        return f"{self._how(form.left, product)} x {self._how(form.right, product)}"

    @_how.register(Sum)
    def _(self, form: Sum, product: bool) -> str:
        return " + ".join(self._how(part, product) for part in form.parts)

    def write(self, source: Source, folder: Path) -> Exported:
        """See :class:`Exporter`: ``model.onnx``, whose metadata name each layer's form."""
        self.check()
        weights = _weights(source.model)
        graph = traced(source, self.opset)
        products = pack_weights(graph, {name: weight for name, weight, _ in weights.values()})
        layers = dict.fromkeys(layers_of(source.model), DENSE)
        for layer, (name, weight, kind) in weights.items():
            if name in products:
                layers[layer] = self._how(weight.form, products[name] and kind == "linear")
        told = json.dumps(layers, separators=(",", ":"))
        path = folder / "model.onnx"
        path.write_bytes(serialized(graph, {"paretune": told}))
        notes = (READ_EACH_TIME,) if any("Dequantize" in how for how in layers.values()) else ()
        return Exported(path, layers, notes)

    def opened(self, path: Path, source: Source) -> Callable[[Inputs], Tensor]:
        """See :class:`Exporter`."""
        self.check()
        session = open_session(path)

        def run(inputs: Inputs) -> Tensor:
            named = {"input": inputs} if isinstance(inputs, Tensor) else inputs
            asked = {name: tensor.numpy() for name, tensor in named.items()}
            return torch.from_numpy(session.run(None, asked)[0])

        return run


def open_session(path: Path) -> Any:
    """A session of ONNX Runtime on the CPU, on as many threads as torch.

    Raises:
        InvalidSetting: it has no such operator, or refuses the file for another reason.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no class of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        version = onnxruntime.__version__
        raise InvalidSetting(
            [f"{path.name}: ONNX Runtime {version} refuses it: {reason}"]
        ) from error


def _weights(model: nn.Module) -> dict[str, tuple[str, Packed, str | None]]:
    """By layer, of those whose packed weight has a form: its name in the trace, and its kind."""
    found = {}
    for name, layer in layers_of(model).items():
        packed = packed_of(layer)
        if packed is not None and (form := form_of(packed)):
            inside = name if bare(layer) is layer else f"{name}.base_layer"
            weight = Packed(form, packed.shape)
            found[name] = f"model.{inside}.weight", weight, kind_of(bare(layer))
    return found

"""Quantisers of other packages on one weight: what ours are measured against.

    pip install --no-deps --target REFERENCES torchao==0.18.0 hqq==0.2.8 termcolor auto-gptq==0.7.1
    PYTHONPATH=REFERENCES python ...

They run on the CPU as they are, but for two lines that ask for CUDA (see below). A folder of their
own keeps them from the rest: PEFT and transformers behave otherwise where torchao is installed.

Each function takes a weight W (m, n) and gives (decoded weight, stored bytes). Bytes are counted
for all alike: codes end to end, scales and float zero points in float16, to which they are rounded
before decoding; integer zero points take the bits of a code. ``group_size`` has to divide n here,
as theirs do not pad; 0 is a whole row. ``moment`` is the second moment (n, n) of the inputs,
``inputs`` some of them, (k, n).

Not run: torchao's own GPTQ, which refuses any device but CUDA, and GPTQModel, whose package needs
a build of its own; auto-gptq's class is the algorithm as its authors wrote it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from compression.packing import packed_bytes

Result = tuple[Tensor, int]


def installed(package: str) -> bool:
    """Whether a reference can be run: ``torchao``, ``hqq`` or ``auto_gptq``."""
    return importlib.util.find_spec(package) is not None


def _bytes(weight: Tensor, bits: int, group_size: int, zero_bits: int) -> int:
    groups = weight.numel() // (group_size or weight.shape[1])
    return packed_bytes(weight.numel(), bits) + 2 * groups + packed_bytes(groups * zero_bits, 1)


def _half(values: Tensor) -> Tensor:
    return values.half().float()


def torchao_rtn(weight: Tensor, bits: int, group_size: int, symmetric: bool) -> Result:
    """Round to nearest by torchao's affine primitives: ``rtn``."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    block = (1, group_size or weight.shape[1])
    if symmetric:
        mapping, low, high = MappingType.SYMMETRIC, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    else:
        mapping, low, high = MappingType.ASYMMETRIC, 0, 2**bits - 1
    grid = choose_qparams_affine(
        weight, mapping, block, torch.int8 if symmetric else torch.uint8, low, high, eps=1e-12
    )
    scale, zero = _half(grid[0]), grid[1]
    dtype = torch.int8 if symmetric else torch.uint8
    codes = quantize_affine(weight, block, scale, zero, dtype, low, high)
    decoded = dequantize_affine(codes, block, scale, zero, dtype, low, high)
    return decoded, _bytes(weight, bits, group_size, 0 if symmetric else bits)


def torchao_awq(weight: Tensor, bits: int, group_size: int, inputs: Tensor) -> Result:
    """torchao's search for the scales of inputs, symmetric: ``awq`` with ``clip=False``."""
    from torchao.prototype.awq.core import AWQObserver
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup

    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerGroup(group_size) if group_size else PerAxis(0),
    )
    observer = AWQObserver(weight, None, config)
    observer(inputs, inputs)
    channels = _half(observer.calculate_qparams())
    decoded, size = torchao_rtn(weight * channels, bits, group_size, symmetric=True)
    return decoded / channels, size + 2 * weight.shape[1]


def torchao_nf4(weight: Tensor, group_size: int) -> Result:
    """torchao's NF4 with its scales quantised too, 256 together: ``nf4`` with ``double=True``."""
    from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import NF4Tensor

    packed = NF4Tensor.from_tensor(weight, group_size, 256)
    blocks = weight.numel() // group_size
    size = packed_bytes(weight.numel(), 4) + blocks + 4 * (blocks // 256) + 4
    return packed.get_original_weight(), size


def hqq(weight: Tensor, bits: int, group_size: int) -> Result:
    """The hqq package, float zero points, groups along a row: ``hqq``."""
    from hqq.core.quantize import Quantizer

    with mock.patch("torch.cuda.empty_cache"):
        codes, meta = Quantizer.quantize(
            weight, bits, group_size=group_size or weight.shape[1], axis=1, device="cpu",
            round_zero=False, bitpack=False, compute_dtype=torch.float32,
        )  # fmt: skip
    decoded = (codes.float() - _half(meta["zero"])) * _half(meta["scale"])
    return decoded.view(weight.shape), _bytes(weight, bits, group_size, 16)


def torchao_hqq(weight: Tensor, bits: int, group_size: int) -> Result:
    """torchao's copy of hqq, float zero points: ``hqq``."""
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

    codes, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
        weight, bits, group_size or weight.shape[1], compute_dtype=torch.float32,
        device="cpu", raw_output=True,
    )  # fmt: skip
    groups = codes.float().view(-1, group_size or weight.shape[1])
    decoded = (groups - _half(zero.view(-1, 1))) * _half(scale.view(-1, 1))
    return decoded.view(weight.shape), _bytes(weight, bits, group_size, 16)


def auto_gptq(
    weight: Tensor,
    bits: int,
    group_size: int,
    symmetric: bool,
    moment: Tensor,
    act_order: bool = False,
) -> Result:
    """The GPTQ class of auto-gptq, groups of the weight as it was under ``act_order``: ``gptq``.

    Its scales stay in float32, to its advantage.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    with mock.patch("torch.cuda.synchronize"), mock.patch("torch.cuda.empty_cache"):
        solver = _auto_gptq_class()(layer)
        solver.quantizer.configure(bits, perchannel=True, sym=symmetric, mse=False)
        solver.H, solver.nsamples = moment.clone(), 1
        solver.fasterquant(
            group_size=group_size or -1,
            actorder=act_order,
            static_groups=act_order and group_size > 0,
        )
    return layer.weight.data.float(), _bytes(weight, bits, group_size, 0 if symmetric else bits)


def _auto_gptq_class() -> Callable[[nn.Module], Any]:
    """The class alone: the package as a whole imports models that are gone from transformers."""
    import transformers

    if "auto_gptq" not in sys.modules:
        spec = importlib.util.find_spec("auto_gptq")
        if spec is None:
            raise ModuleNotFoundError("auto_gptq is not installed")
        sys.modules["auto_gptq"] = importlib.util.module_from_spec(spec)  # its code is not run
    if not hasattr(transformers, "Conv1D"):
        transformers.Conv1D = transformers.pytorch_utils.Conv1D
    return importlib.import_module("auto_gptq.quantization.gptq").GPTQ

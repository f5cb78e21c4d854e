"""Where a trial computes, and how its numbers get there.

Everything random is drawn on the CPU and moved afterwards: from one seed a trial has the same
splits, order of examples, inits and distorted inputs on every device.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from trainables.hardware.sending import send, send_tensor
from trainables.record import PRECISIONS
from trainables.splits import Inputs, Split, StandIn, map_inputs
from trainables.stage import Stage
from trainables.tasks.base import Forward

CPU = torch.device("cpu")
RESIDENT = 1 / 32
"""Share of a card's memory up to which a split moves there as a whole."""
_DTYPES = {name: getattr(torch, name) for name in PRECISIONS}


class NoDevice(RuntimeError):
    """A trial was given a GPU that torch can't use."""


def pick(name: str = "auto") -> torch.device:
    """The device of a trial: ``cpu``, ``cuda``, or ``auto`` for CUDA where torch sees it.

    Which card it is, ``CUDA_VISIBLE_DEVICES`` says, as Ray sets it for a worker.

    Raises:
        NoDevice: CUDA is asked for and torch sees none.
        ValueError: another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: expected auto, cpu or cuda, got {name!r}")
    seen = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not seen:
        raise NoDevice(
            f"this trial was given a GPU, but torch {torch.__version__} sees none: install a torch "
            "built for CUDA and a driver that goes with it, or set resources.gpus to 0"
        )
    if not seen:
        return CPU
    # float32 means float32, also in convolutions, where cuDNN rounds factors to 10 bits by default.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", 0)


def limit_threads(threads: int) -> None:
    """Let torch use so many threads in this process, inside an operation and between them."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != threads:
        # Refused once that pool runs. Eager training has nothing to run there.
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(threads)


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, in place; where it convolves there, with channels last.

    On the CPU nothing changes: a file's logits are compared bit by bit, and the order of a sum is
    the layout's.
    """
    if device.type == "cpu":
        return model
    model.to(device)
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    return model


def place(stage: Stage, device: torch.device, augmented: bool = False) -> Stage:
    """The stage, its model moved, with a ``forward`` that takes inputs from anywhere.

    A split that is held as tensors and is small beside the card moves there too, the training
    split only if its inputs are not ``augmented``: distortions are drawn and applied on the CPU.
    Labels stay there, and go where the outputs are.
    """
    if device.type == "cpu":
        return stage
    move(stage.model, device)

    def there(inner: Forward) -> Forward:
        return lambda inputs: inner(send(inputs, device))

    return replace(
        stage,
        forward=there(stage.forward),
        forward_of=lambda model: there(stage.forward_of(model)),
        train=stage.train if augmented else resident(stage.train, device),
        validation=resident(stage.validation, device),
    )


def resident(split: Split, device: torch.device) -> Split:
    """The split with its inputs on the device, if they are tensors and few enough; else itself."""
    tensors = getattr(split, "tensors", None)
    if tensors is None or isinstance(split, Resident):
        return split
    held = [tensors] if isinstance(tensors, Tensor) else list(tensors.values())
    if sum(tensor.nbytes for tensor in held) > RESIDENT * total_memory(device):
        return split
    return Resident(split, map_inputs(lambda tensor: tensor.to(device), tensors))


def total_memory(device: torch.device) -> int:
    """Bytes of the card."""
    return int(torch.cuda.get_device_properties(device).total_memory)


class Resident(StandIn):
    """A split whose inputs are on a device."""

    def __init__(self, split: Split, tensors: Inputs) -> None:
        super().__init__(split)
        self.tensors = tensors
        first = tensors if isinstance(tensors, Tensor) else next(iter(tensors.values()))
        self.device = first.device

    def inputs(self, rows: Tensor) -> Inputs:
        """See :class:`Split`; gathered on the device."""
        rows = send_tensor(rows, self.device)
        return map_inputs(lambda tensor: tensor[rows], self.tensors)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Within the block matrix products and convolutions are computed in ``precision``.

    For training steps. Scores are always taken in float32: what is scored is what ships.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss so that float16 gradients do not vanish; passes through elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def describe(device: torch.device) -> str:
    """The device as a record names it."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)

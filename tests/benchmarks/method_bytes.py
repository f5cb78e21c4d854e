"""Bytes of every method over EfficientNet-Lite0: on disk, as counted, and by formulas."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compression.artifact import save
from compression.calibration import Calibration
from compression.layers import packed_of
from compression.methods import METHODS, Method, chain
from compression.model import Rule, compress_model
from compression.rules import target_layers
from compression.size import PARTS, measure
from trainables.calibration import calibrated, examples
from trainables.tasks import TASKS

sys.path.append(str(Path(__file__).resolve().parents[1]))
from byte_formulas import formula  # noqa: E402

CHAINS = [("svd", "rtn"), ("n_m", "rtn"), ("svd", "nf4"), ("svd", "n_m", "rtn"), ("wanda", "hqq")]
SOME = ("blocks.1.*", "blocks.3.0.*", "classifier")  # of every kind
EXAMPLES = 16


def exact_bytes() -> dict[str, Any]:
    """Every method and some chains; stops at the first byte that is not accounted for."""
    dense, calibration = network()
    whole = measure(dense, ["*"]).file_bytes
    found: dict[str, Any] = {}
    for names in [*((name,) for name in METHODS if name != "none"), *CHAINS]:
        methods = tuple(METHODS.build(name) for name in names)
        method = chain(methods)
        model = copy.deepcopy(dense)
        shapes = {k: tuple(v.weight.shape) for k, v in target_layers(model, ["*"]).items()}
        rules = [Rule(pattern, methods) for pattern in patterns_of(method)]
        compress_model(model, rules, ["*"], calibration=calibration)
        found[method.name] = {"file": checked_file(method.name, model)}
        found[method.name]["layers by formula"] = checked_layers(method.name, model, shapes)
    print(f"\nbytes on disk are those said, for {len(found)} methods and chains (dense {whole:,})")
    for name, sizes in found.items():
        by_formula = sizes["layers by formula"]
        print(f"  {name}: {whole / sizes['file']:.2f}x, {by_formula} layers as by formula")
    return found


def network() -> tuple[nn.Module, Calibration]:
    """EfficientNet-Lite0, and crops of photos."""
    task = TASKS.build("imagenet_crops", {"crops": 1, "layers": "*"})
    data = calibrated(task.prepare(0), EXAMPLES, 0)
    calibration = examples(task, data)
    if calibration is None:
        raise ValueError("no calibration examples were chosen")
    return data.model, calibration


def patterns_of(method: Method) -> tuple[str, ...]:
    """All layers, or some of each kind where calibration costs; convolutions alone have no other.

    Methods that share a budget over layers share it among those of a pattern.
    """
    if method.structural or (not method.needs and "linear" in method.kinds):
        return ("*",)
    return SOME if "linear" in method.kinds else SOME[:2]


def checked_file(name: str, model: nn.Module) -> int:
    """Length of the file, whose tensors have the bytes that are said."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save(model, str(path))
        size, content = measure(model, ["*"]), path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tensors = {k: v["data_offsets"] for k, v in header.items() if k != "__metadata__"}
    on_disk = sum(end - start for start, end in tensors.values())
    said = sum(size.model[part] for part in PARTS if part != "header")
    if not on_disk == said or not len(content) == size.file_bytes == 8 + length + on_disk:
        raise SystemExit(f"{name}: {on_disk} bytes of tensors on disk, {said} said")
    return len(content)


def checked_layers(name: str, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many layers the method packed or made smaller, each with the bytes of its formula."""
    taken = 0
    for layer, module in target_layers(model, ["*"]).items():
        if packed := packed_of(module):
            said, stored = formula(packed.method, packed.shape), packed.stored_bytes()
        else:
            weight = module.get_parameter("weight")
            said, stored = formula(METHODS.build("none"), tuple(weight.shape)), weight.nbytes
        if said != stored:
            raise SystemExit(f"{name}: {stored} bytes of '{layer}', {said} by its formula")
        taken += packed is not None or tuple(weight.shape) != shapes[layer]
    return taken

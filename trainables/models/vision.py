"""Image classifiers of torchvision and timm by name: architecture, preprocessing, weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compression.registry import InvalidSetting, UnknownName
from trainables.data.downloads import fetch, folder, hash_in_name, hub_file
from trainables.data.preprocessing import Preprocessing, Steps

TIMM = "timm/"
# Heads that torchvision's Inceptions have for training alone, and published files hold.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet's published files write norm.1 and conv.2 where its modules are norm1 and conv2.
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def check_name(name: str) -> None:
    """Find out whether there is a model of that name.

    Raises:
        UnknownName: there is none, with the closest that there is.
        InvalidSetting: timm is asked for and absent.
    """
    if name.startswith(TIMM):
        known = {TIMM + n for n in _timm().list_models() + _timm().list_pretrained()}
    else:
        known = set(_torchvision_names())
    if name in known:
        return
    near = difflib.get_close_matches(name, [*known, *(TIMM + n for n in _timm_names_if_there())])
    raise UnknownName("model", name, near or [*_torchvision_names(), f"{TIMM}NAME"])


def architecture(name: str, classes: int = 0) -> nn.Module:
    """The model with its random start, which is the same each time; 0 classes: its own number.

    Raises:
        UnknownName, InvalidSetting: as :func:`check_name`.
    """
    check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _bare(name, classes).eval()


def own_classes(name: str) -> int:
    """Classes that the library's weights tell apart."""
    if name.startswith(TIMM):
        return int(_timm_config(name).num_classes)
    return len(_torchvision_weights(name).meta["categories"])


def head(name: str, state: Mapping[str, Tensor]) -> int:
    """Classes of a model that these weights are of: rows of its last layer; 0 where it is absent.

    The last layer's tensors are those whose shapes change with the number of classes.
    """
    keys = [key for key in _head_keys(name) if key in state]
    return len(state[keys[-1]]) if keys else 0


def preprocessing(name: str, size: int = 0) -> Preprocessing:
    """How the library prepares photos for the model: resized, cropped, normalised.

    With a ``size`` in pixels the crop is that wide and high, the rest in proportion.
    """
    return _timm_preprocessing(name, size) if name.startswith(TIMM) else _preset(name, size)


def library_state(name: str) -> dict[str, Tensor]:
    """The weights that the library publishes for the model, downloaded if need be.

    Raises:
        DownloadError: they could not be had; the message says what to fetch and where to put it.
        InvalidSetting: there are none.
    """
    if name.startswith(TIMM):
        return _timm_state(name)
    url = _torchvision_weights(name).url
    file = fetch(url, hash_in_name(url), Path(torch.hub.get_dir(), "checkpoints"))
    return read_state(file)


def read_state(file: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, or of a .pth file, from which no code is run.

    A dictionary inside a training checkpoint (``state_dict``, ``model``) is found, and the
    ``module.`` of DataParallel dropped.

    Raises:
        InvalidSetting: no such file, or it holds no weights.
    """
    if not file.is_file():
        raise InvalidSetting([f"weights: there is no file '{file}'"])
    try:
        if file.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidSetting([f"weights: '{file}' can't be read: {reason}"]) from None
    for inside in ("state_dict", "model", "model_state_dict"):
        found = found.get(inside, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InvalidSetting([f"weights: '{file}' holds no dictionary of tensors by name"])
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def load(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Put weights into a model, all of them; ``origin`` says in errors where they come from.

    Names of published files that torchvision has changed since are understood.

    Raises:
        InvalidSetting: every tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    state = {_DOTTED.sub(r"\1", key): value for key, value in state.items()}
    state = {k: v for k, v in state.items() if k in own or not k.startswith(_AUXILIARY)}
    # Older files lack BatchNorm's counters, which no evaluation reads.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    errors = [f"{origin}: '{key}' is missing" for key in missing]
    errors += [f"{origin}: the model has no '{key}'" for key in state if key not in own]
    errors += [
        f"{origin}: '{key}' is {_shape(state[key])}, the model's is {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if errors:
        raise InvalidSetting(errors)
    own.update(state)  # it bears the version of its format, which MNASNet asks for
    model.load_state_dict(own)
    return model


def load_body(name: str, model: nn.Module, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """:func:`load`, but the last layer keeps what it has where the classes are others.

    Raises:
        InvalidSetting: as :func:`load`.
    """
    own, last = model.state_dict(), _head_keys(name)
    replaced = {k: own[k] for k in last if k in state and state[k].shape != own[k].shape}
    return load(model, {**state, **replaced}, origin)


def takes(model: nn.Module, size: tuple[int, int]) -> str | None:
    """What goes wrong with images of that height and width; found without computing anything."""
    try:
        model.to("meta").eval()(torch.empty(1, 3, *size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _bare(name: str, classes: int) -> nn.Module:
    own = {"num_classes": classes} if classes else {}
    if name.startswith(TIMM):
        model: nn.Module = _timm().create_model(name.removeprefix(TIMM), pretrained=False, **own)
        return model
    from torchvision.models import get_model

    made: nn.Module = get_model(name, weights=None, **own, **_as_pretrained(name))
    return made


def _as_pretrained(name: str) -> dict[str, Any]:
    """What torchvision sets with its weights beside the classes; without auxiliary heads."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False, "aux_logits": False}
    if name.startswith("vit_"):
        return {"image_size": _torchvision_weights(name).meta["min_size"][0]}
    return {}


class _WeightsOnMeta(TorchFunctionMode):
    """Layers made within have no memory; what a constructor computes (RegNet's widths) is real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@cache
def _head_keys(name: str) -> tuple[str, ...]:
    with _WeightsOnMeta():
        few, more = _bare(name, 2).state_dict(), _bare(name, 3).state_dict()
    return tuple(key for key in few if few[key].shape != more[key].shape)


@cache
def _torchvision_names() -> tuple[str, ...]:
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))


def _torchvision_weights(name: str) -> Any:
    from torchvision.models import get_model_weights

    check_name(name)
    return get_model_weights(name).DEFAULT


def _preset(name: str, size: int) -> Preprocessing:
    weights = _torchvision_weights(name)
    made = weights.transforms()
    if size:
        resize = round(size * made.resize_size[0] / made.crop_size[0])
        made = weights.transforms(crop_size=size, resize_size=resize)
    crop = made.crop_size[0]
    return Preprocessing(
        Steps((made,)), (crop, crop), tuple(made.mean), tuple(made.std), made.interpolation.value
    )


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise InvalidSetting(["timm is absent: pip install 'paretune[timm]'"]) from None
    return timm


def _timm_names_if_there() -> list[str]:
    try:
        names: list[str] = _timm().list_models()
    except InvalidSetting:
        return []
    return names


def _timm_config(name: str) -> Any:
    check_name(name)
    return _timm().get_pretrained_cfg(name.removeprefix(TIMM))


def _timm_preprocessing(name: str, size: int) -> Preprocessing:
    data = _timm().data
    asked = {"input_size": (3, size, size)} if size else {}
    config = data.resolve_data_config(asked, pretrained_cfg=_timm_config(name).to_dict())
    _, height, width = config["input_size"]
    return Preprocessing(
        Steps(tuple(data.create_transform(**config).transforms)),
        (height, width),
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
    )


def _timm_state(name: str) -> dict[str, Tensor]:
    config = _timm_config(name)
    url = config.url or ""
    if hash_in_name(url):
        file = fetch(url, hash_in_name(url), folder("timm"))
    elif config.hf_hub_id:
        file = hub_file(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    else:
        raise InvalidSetting([f"weights: timm publishes none for '{name}'; see weights: none"])
    # timm's own loading: it renames what older files name otherwise.
    create = _timm().create_model
    base = name.removeprefix(TIMM)
    with torch.random.fork_rng(devices=[]):
        model = create(base, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    return dict(model.state_dict())

"""What a config says of the search space."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import ValidationInfo

from compression.adapters import ADAPTERS
from compression.methods import METHODS
from compression.registry import Domain, InvalidSetting
from study.allocation.config import AllocateConfig
from study.fields.choices import Located
from study.fields.sections import Section, as_written
from study.fields.space_fields import Alphas, Batches, Options, Ranks, options
from study.layerwise.config import GROUPED, LayerwiseConfig
from study.layerwise.resolving import resolved, united
from study.space.targets import leaves_nothing, method_problems, rank_problem


class SpaceConfig(Section):
    """What is searched. A bare plugin name brings its own knobs and their default domains."""

    method: Annotated[Options, options("method")] = as_written(
        ["int1", "rtn", "block_sparse", "svd"]
    )
    init: Annotated[Options, options("init")] = as_written(["zeros", "residual"])
    adapter: Annotated[Options, options("adapter")] = as_written(["none", "lora"])
    rank: Ranks = as_written([1, 2, 4, 8])
    alpha: Alphas = None
    optimizer: Annotated[Options, options("optimizer")] = as_written(["adam"])
    lr_schedule: Annotated[Options, options("lr_schedule")] = as_written(["constant"])
    loss: Annotated[Options, options("loss")] = as_written(["task"])
    hook: Annotated[Options, options("hook")] = as_written(["none"])
    batch_size: Batches = as_written([32])
    rest: Annotated[Options, options("rest")] = as_written(["none"])
    allocate: AllocateConfig | None = None
    layerwise: LayerwiseConfig | None = None

    @pydantic.field_validator("method")
    @classmethod
    def _takes(cls, method: Options, info: ValidationInfo) -> Options:
        task = (info.context or {}).get("task")
        if task and (problems := method_problems(method, task)):
            raise InvalidSetting(problems)
        return method

    @pydantic.field_validator("adapter")
    @classmethod
    def _stands_for(cls, adapter: Options, info: ValidationInfo) -> Options:
        empty = [o.name for o in info.data.get("method", ()) if leaves_nothing(o)]
        if empty and any(option.name == "none" for option in adapter):
            names = ", ".join(empty)
            raise ValueError(f"none: {names} leaves nothing of a layer without an adapter")
        return adapter

    @pydantic.field_validator("rank")
    @classmethod
    def _fits(cls, rank: Domain, info: ValidationInfo) -> Domain:
        task, adapters = (info.context or {}).get("task"), info.data.get("adapter", ())
        ranked = any(ADAPTERS[option.name].ranked for option in adapters)
        if task and ranked and (problem := rank_problem(rank, task, info.data.get("method", ()))):
            raise ValueError(problem)
        return rank

    @pydantic.field_validator("rest")
    @classmethod
    def _any_shape(cls, rest: Options) -> Options:
        able = [name for name in METHODS if METHODS[name].any_shape]
        if wrong := [option.name for option in rest if option.name not in able]:
            raise ValueError(
                f"{', '.join(wrong)}: only for weights of layers; expected one of {', '.join(able)}"
            )
        return rest

    @pydantic.field_validator("layerwise")
    @classmethod
    def _whole(
        cls, layerwise: LayerwiseConfig | None, info: ValidationInfo
    ) -> LayerwiseConfig | None:
        task, allocate = (info.context or {}).get("task"), info.data.get("allocate")
        if allocate is not None:
            if layerwise is None:  # allocation is by layer
                layerwise = LayerwiseConfig.model_validate({"fill": True}, context=info.context)
            if layerwise.max_bytes is not None:
                raise Located([(("max_bytes",), "allocate sets the bytes; leave one of them out")])
        elif layerwise is not None and layerwise.fill and layerwise.max_bytes is None:
            raise Located([(("fill",), "there is nothing to fill without max_bytes; set it")])
        if layerwise is None or task is None or not set(GROUPED) <= info.data.keys():
            return layerwise
        return resolved(layerwise, info.data, task)

    def axes(self) -> dict[str, Options]:
        """The options of each axis; of layer-wise spaces those of all groups."""
        found = {k: v for k, v in dict(self).items() if isinstance(v, tuple)}
        return found if self.layerwise is None else found | united(self.layerwise)

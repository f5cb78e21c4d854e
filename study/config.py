"""The study's configuration: typed, checked before anything heavy starts, all errors at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    ValidationInfo,
)

from analysis.masking import masked
from compression.registry import InvalidSetting, Registry
from study.allocation.config import AllocateConfig
from study.allocation.problems import allocation_problems
from study.fields import yaml_lines
from study.fields.amounts import (
    parse_concurrency,
    parse_duration,
    parse_interval,
    parse_precision,
    parse_price,
    parse_quota,
    parse_wait,
)
from study.fields.choices import Located, parse_plugin, plain
from study.fields.config_errors import lines, place
from study.fields.sections import (
    Calibrate,
    Confirm,
    Count,
    Keep,
    Patience,
    Resources,
    Section,
    Systems,
    Texts,
    as_written,
    budget_problems,
)
from study.fields.space_fields import Options, options
from study.layerwise.config import GroupConfig, LayerwiseConfig
from study.layerwise.space import build_layerwise
from study.objectives import objective_problems
from study.plugins import PluginFile, load_entry_points
from study.reach import constraint_problems, quota_problems
from study.schedulers import SCHEDULERS, Budget, Scheduler
from study.searchers import SEARCHERS, Searcher
from study.space.space import Space, build_space
from study.space.targets import (
    adapter_problems,
    hook_problems,
    loss_problems,
    optimizer_problems,
    recipe_problems,
)
from study.space_config import SpaceConfig
from study.store.storage import openable
from study.tracking.optuna_view import check_optuna_storage
from trainables.tasks import TASKS, Task

Probe = Callable[[Any], str | None]


def _plugin(registry: Registry[Any]) -> PlainValidator:
    return PlainValidator(lambda item: parse_plugin(registry, item))


def _plugin_file(value: object, info: ValidationInfo) -> PluginFile:
    if isinstance(value, PluginFile):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected the path of a Python file, got {value!r}")
    # Beside the config; or, as on a command line, in the current folder.
    beside = Path((info.context or {}).get("folder", "."), value)
    file = PluginFile.read(beside if beside.exists() or not Path(value).exists() else value)
    file.load()
    return file


class StudyConfig(Section):
    """A whole study, made by :func:`load_config`, :func:`parse_config` or :func:`make_config`."""

    # Plugins register names and the task has a largest rank: both stand before what needs them.
    plugins: tuple[Annotated[PluginFile, PlainValidator(_plugin_file)], ...] = ()
    task: Annotated[Task, _plugin(TASKS)]
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] = 0
    trials: Count = 80
    time_budget: Annotated[float | None, PlainValidator(parse_duration)] = None
    accelerator_budget: Annotated[float | None, PlainValidator(parse_duration)] = None
    money_budget: Annotated[float | None, PlainValidator(parse_price)] = None
    price_per_hour: Annotated[float | None, PlainValidator(parse_price)] = None
    patience: Patience | None = None
    concurrency: Annotated[int | Literal["auto"], PlainValidator(parse_concurrency)] = "auto"
    searcher: Annotated[Searcher, _plugin(SEARCHERS)] = as_written("forest")
    scheduler: Annotated[Scheduler, _plugin(SCHEDULERS)] = as_written("pareto_asha")
    recipe: Annotated[Options, options("recipe")] = as_written("recover")
    epochs: Count = 12
    precision: Annotated[str, PlainValidator(parse_precision)] = "float32"
    storage: Annotated[StrictStr, Field(min_length=1), AfterValidator(openable)] = "results"
    storage_patience: Annotated[float, PlainValidator(parse_wait)] = 300.0
    tracking_uri: StrictStr | None = None
    optuna_storage: Annotated[StrictStr | None, AfterValidator(check_optuna_storage)] = None
    objectives: tuple[StrictStr, ...] | None = None
    constraints: Texts = ()
    published: Systems = ()
    keep: Keep = as_written({})
    quota: Annotated[float | None, PlainValidator(parse_quota)] = None
    confirm: Confirm | None = None
    resources: Resources = as_written({})
    max_retries: Annotated[StrictInt, Field(ge=0)] = 3
    checkpoint_seconds: Annotated[float, PlainValidator(parse_interval)] = 5.0
    calibration: Calibrate = as_written({})
    space: SpaceConfig = as_written({})

    _document: yaml_lines.Document = pydantic.PrivateAttr()
    _plugin_versions: dict[str, str] = pydantic.PrivateAttr()

    @pydantic.field_validator("plugins")
    @classmethod
    def _named_apart(cls, plugins: tuple[PluginFile, ...]) -> tuple[PluginFile, ...]:
        names = [file.name for file in plugins]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two files named {', '.join(twice)}; records tell them by name")
        return plugins

    @pydantic.field_validator("*")
    @classmethod
    def _probe(cls, value: Any, info: ValidationInfo) -> Any:
        context = info.context if info.context is not None else {}
        if info.field_name == "task":
            value.check()
            context["task"] = value
        probe: Probe | None = context.get("probes", {}).get(info.field_name)
        if probe and (problem := probe(value)):
            raise ValueError(problem)
        return value

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> StudyConfig:
        space = dict(self.space) | self.space.axes()
        together = self.space.layerwise is None  # else each group was checked by itself
        found = {
            **budget_problems(
                self.resources, self.accelerator_budget, self.money_budget, self.price_per_hour
            ),
            ("quota",): quota_problems(self.task, self.quota),
            ("objectives",): objective_problems(self.task, self.objectives),
            ("recipe",): recipe_problems(self.recipe, space, self.task),
            ("space", "adapter"): adapter_problems(space, self.task) if together else [],
            ("space", "hook"): hook_problems(self.recipe, space),
            ("space", "loss"): loss_problems(self.recipe, space),
            ("space", "optimizer"): optimizer_problems(space),
        }
        wanted = constraint_problems(self.task, self.constraints, space["method"], space["rest"])
        located: list[tuple[tuple[str | int, ...], str]]
        located = [(where, text) for where, texts in found.items() for text in texts]
        located += [(("constraints", *at), text) for at, text in wanted]
        if located:
            raise Located(located)
        return self

    def search_space(self) -> Space:
        """The space that the searcher draws from."""
        values = {"rank": self.space.rank, "batch_size": self.space.batch_size}
        if self.space.alpha is not None:
            values["alpha"] = self.space.alpha
        axes = {**self.space.axes(), "recipe": self.recipe}
        if self.space.layerwise is not None:
            parts = (self.space.layerwise, axes, values, self.precision)
            return build_layerwise(self.task, self.epochs, *parts)
        return build_space(self.task, self.epochs, axes, values, self.precision)

    @property
    def margin(self) -> float:
        """How near to the front a model's file is kept: what may be run again is."""
        return max(self.keep.margin, self.confirm.within if self.confirm else 0.0)

    def where(self, *path: str | int) -> str:
        """``FILE:LINE: key`` of a setting, to begin an error with."""
        return place(self._document, path)

    def plugin_hashes(self) -> dict[str, str]:
        """The user's own plugins: sha256 by file, version by entry point. Part of every origin."""
        return {**self._plugin_versions, **{file.name: file.sha256 for file in self.plugins}}

    def to_json(self) -> dict[str, Any]:
        """Plain data, defaults filled in; :func:`make_config` makes the same config of it.

        But for secrets in addresses: this is what is stored and shown.
        """
        data = dict(self) | {
            name: place and masked(place)
            for name, place in dict(self).items()
            if name in ("storage", "tracking_uri", "optuna_storage")
        }
        return {k: plain(dict(v) if isinstance(v, Section) else v) for k, v in data.items()}


SECTIONS: dict[str, type[Section]] = {
    "": StudyConfig,
    "patience": Patience,
    "space": SpaceConfig,
    "allocate": AllocateConfig,
    "layerwise": LayerwiseConfig,
    "groups": GroupConfig,
    "keep": Keep,
    "confirm": Confirm,
    "resources": Resources,
    "calibration": Calibrate,
}


def load_config(
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> StudyConfig:
    """Read a YAML file; see :func:`parse_config`. Its plugins stand beside it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting([f"{path}: {getattr(error, 'strerror', None) or error}"]) from None
    return parse_config(text, str(path), overrides, probes)


def parse_config(
    text: str,
    source: str = "config",
    overrides: Mapping[str, str] | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> StudyConfig:
    """A config from YAML. ``overrides`` are YAML values by dotted key.

    ``probes`` are further checks by top-level key: each takes the value and says what is wrong.

    Raises:
        InvalidSetting: all errors, each as ``FILE:LINE: key: what is wrong``.
    """
    document, errors = yaml_lines.load(text, source), list[str]()
    for key, value in (overrides or {}).items():
        try:
            document = document.override(key, value)
        except InvalidSetting as error:
            errors += error.errors
    return _validate(document, probes or {}, errors)


def make_config(data: Mapping[str, Any], source: str = "config") -> StudyConfig:
    """A config from plain data, such as :meth:`StudyConfig.to_json` gives.

    Raises:
        InvalidSetting: as :func:`parse_config`.
    """
    return _validate(yaml_lines.Document(dict(data), {}, source), {}, [])


def _validate(
    document: yaml_lines.Document, probes: Mapping[str, Probe], errors: list[str]
) -> StudyConfig:
    versions: dict[str, str] = {}
    try:
        versions = load_entry_points()
    except InvalidSetting as error:
        errors += error.errors
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(document.source).stem).lstrip("-._") or "study"
    context = {"folder": Path(document.source).parent, "probes": probes}
    try:
        config = StudyConfig.model_validate({"name": stem, **document.data}, context=context)
        if not errors:
            config._document, config._plugin_versions = document, versions
            space = config.search_space()
            refused: dict[yaml_lines.Path, list[str]] = {
                ("searcher",): list(config.searcher.refusals(space.params)),
                ("scheduler",): list(
                    config.scheduler.refusals(Budget(config.epochs, space.min_fidelity()))
                ),
                ("space", "allocate"): allocation_problems(
                    config.space.allocate, space, config.task
                ),
            }
            errors += [f"{place(document, at)}: {text}" for at in refused for text in refused[at]]
            if not errors:
                return config
    except pydantic.ValidationError as error:
        errors += [line for e in error.errors() for line in lines(e, document, SECTIONS)]
    except InvalidSetting as error:
        errors += [f"{place(document, ('space',))}.{message}" for message in error.errors]
    raise InvalidSetting(errors)

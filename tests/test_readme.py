"""What the README shows is what the software takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import study
from compression import compress_model, load, save
from compression.methods import METHODS
from compression.model import Rule
from study.run import main as command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_configs_are_valid():
    (whole,) = (block for block in _blocks("yaml") if "task:" in block)
    config = study.parse_config(whole)
    assert config.trials == 60
    assert config.task.network == "cnn"
    parts = [block for block in _blocks("yaml") if "task:" not in block]
    read = [study.parse_config(f"task: digits\n{part}") for part in parts]
    (sized,) = [c for c in read if c.space.allocate]
    assert [allocator.name for allocator in sized.space.allocate.by] == ["measured", "mlorq"]
    read.remove(sized)
    (adapters,) = [c for c in read if len(c.space.loss) > 1]
    assert [option.name for option in adapters.space.loss][-1] == "label_smoothing+distil"
    (config,) = [c for c in read if c.calibration.samples == 256 and len(c.space.method) == 3]
    (searched,) = [c for c in read if c.confirm]
    assert searched.searcher.name == "forest"
    (bound,) = [c for c in read if c.constraints]
    assert len(bound.constraints) == 6
    (budgets,) = [c for c in read if c.patience]
    assert budgets.money_budget == 20
    (layerwise,) = [c for c in read if c.space.layerwise]
    assert len(layerwise.search_space().groups) == 3
    assert [option.name for option in config.space.method] == ["gptq", "svd+rtn", "n_m+rtn"]
    assert config.calibration.samples == 256


def test_the_plugin_registers_compresses_and_comes_back(tmp_path):
    (source,) = [block for block in _blocks("python") if "METHODS.register" in block]
    try:
        exec(compile(source, "mine.py", "exec"), {"__name__": "mine"})
        model = torch.nn.Sequential(torch.nn.Linear(6, 4))
        compress_model(model, [Rule(methods=(METHODS.build("halves"),))], ["*"])
        path = str(tmp_path / "m.safetensors")
        save(model, path)
        again = load(path, torch.nn.Sequential(torch.nn.Linear(6, 4)))
        assert torch.equal(again[0].weight, model[0].weight)
    finally:
        METHODS._plugins.pop("halves", None)


def test_every_option_that_is_named_exists():
    named = set(re.findall(r"(--[a-z][a-z-]+)", README.split("## What the numbers")[0]))
    ours = {option for param in command.params for option in param.opts} | {"--help"}
    report = (ROOT / "analysis" / "pareto.py").read_text()
    assert {o for o in named if o not in ours and f'"{o}"' not in report} == set()


@pytest.mark.parametrize("path", re.findall(r"\]\((docs/[^)]+)\)", README))
def test_pictures_stand_where_it_says(path):
    assert (ROOT / path).stat().st_size > 10_000


def test_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[test]' && pytest" in README
    assert "-e '.[test]' && pytest" in ci

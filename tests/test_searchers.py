"""Every searcher's contract: suggestions are a function of seed, number and history."""

from __future__ import annotations

import pytest
from fake_runner import CONFIG, FakeRunner

from study.config import parse_config
from study.searchers import SEARCHERS


def _suggested(runner):
    return [t.params for n, t in sorted(runner.state.trials.items()) if n >= 0]


@pytest.fixture(params=SEARCHERS)
def config(request):
    return parse_config(CONFIG.replace("{tpe: {startup: 4}}", request.param))


def test_same_seed_same_study(config):
    assert _suggested(FakeRunner(config).run()) == _suggested(FakeRunner(config).run())


def test_another_seed_another_study(config):
    other = config.model_copy(update={"seed": 1})
    assert _suggested(FakeRunner(config).run()) != _suggested(FakeRunner(other).run())


def test_suggestions_are_in_the_space(config):
    space = config.search_space()
    for params in _suggested(FakeRunner(config).run()):
        applies = {k for k, p in space.params.items() if p.applies(params)}
        assert set(params) == applies
        assert all(space.params[k].domain.problem(v) is None for k, v in params.items())


def test_the_next_suggestion_does_not_depend_on_what_was_asked_in_between(config):
    whole = FakeRunner(config).run()
    cut = next(i for i, e in enumerate(whole.log) if getattr(e, "number", -1) == 6)
    again = FakeRunner(config, events=list(whole.log[:cut])).run()
    assert _suggested(again) == _suggested(whole)

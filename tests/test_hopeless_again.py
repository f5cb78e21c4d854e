"""A setting that ended as hopeless, suggested again: answered under the same bound, else run."""

from __future__ import annotations

import pytest
from fake_runner import CONFIG, FakeRunner

from study.config import parse_config
from study.state import Phase

MANY = CONFIG.replace("trials: 12", "trials: {trials}").replace(
    "searcher: {tpe: {startup: 4}}", "searcher: random"
)


def _config(trials, bound):
    rest = f"scheduler: fifo\nconstraints: [ratio >= {bound}]\n"
    text = MANY.replace("{trials}", str(trials)) + rest
    return parse_config(text)


@pytest.mark.parametrize("bound", [4, 1])
def test_what_would_be_stopped_again_is_answered_and_what_would_not_is_run(bound):
    before = FakeRunner(_config(8, 4)).run()
    hopeless = next(
        t
        for t in before.state.searched
        if t.record.outcome.epochs_done < t.trial.epochs and t.record.outcome.sha256 is None
    )
    runner = FakeRunner(_config(9, bound), events=list(before.log))
    runner.search.ask = lambda number: dict(hopeless.params)
    runner.run()
    new = [t for n, t in runner.state.trials.items() if n not in before.state.trials]
    assert {t.trial_id for t in new} == {hopeless.trial_id}
    if bound == 4:
        assert {t.phase for t in new} == {Phase.ANSWERED}
    else:
        assert [t.phase for t in new] == [Phase.COMPLETED]
        assert runner.state.record_of(hopeless.trial_id).outcome.sha256
        assert new[0] in runner.state.searched

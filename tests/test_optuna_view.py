"""The search in Optuna's own storage: what is there is what happened, once."""

from __future__ import annotations

from contextlib import suppress

import optuna
import pytest
from fake_runner import CONFIG, FakeRunner

from compression.registry import InvalidSetting
from study.config import parse_config
from study.events import Opened
from study.objectives import aims
from study.tracking.optuna_view import NUMBER, OptunaView, _open, in_optuna

PLACES = ["sqlite:///{}/optuna.db", "{}/optuna.log"]


def _shown_in(config, name, runner, said):
    objectives = [aim.objective for aim in aims(config.task, config.objectives)]
    place, state = config.optuna_storage, runner.state
    return in_optuna(place, objectives, name, state, runner.search.told, said.append)


@pytest.fixture(params=PLACES, ids=["sqlite", "journal"])
def place(request, tmp_path):
    return request.param.format(tmp_path)


def worked(place, name="s", events=(), config=None, **runs):
    """A study with the view beside it, the way a session runs one, and what was said."""
    config = (config or parse_config(CONFIG)).model_copy(update={"optuna_storage": place})
    runner, said = FakeRunner(config, events=events, **runs), []
    with _shown_in(config, name, runner, said) as views:
        runner.driver.views = views
        with suppress(InterruptedError):
            runner.run()
    return runner, said


def written(place, name="s"):
    return optuna.load_study(study_name=name, storage=_open(place)).get_trials()


def test_every_trial_of_the_search_is_there_as_it_was_told(place):
    runner, said = worked(place)
    assert said == []
    trials = written(place)
    ended = {n: t for n, t in runner.state.trials.items() if n >= 0}
    assert sorted(t.user_attrs[NUMBER] for t in trials) == sorted(ended)
    for trial in trials:
        known = ended[trial.user_attrs[NUMBER]]
        told = runner.search.told(known.number)
        assert trial.user_attrs["trial_id"] == known.trial_id
        assert trial.user_attrs["status"] == known.phase
        assert trial.params.items() <= known.params.items()
        assert (trial.state, trial.values) == (told.state, told.values)
        assert trial.distributions == told.distributions
    states = {trial.state.name for trial in trials}
    assert states == {"COMPLETE", "PRUNED"}


def test_a_resumed_study_writes_nothing_twice_and_what_was_missing(place):
    killed, _ = worked(place, breaks_after=60)
    before = len(written(place))
    assert before
    whole, said = worked(place, events=list(killed.log))
    assert said == []
    numbers = [t.user_attrs[NUMBER] for t in written(place)]
    assert sorted(numbers) == sorted(n for n in whole.state.trials if n >= 0)
    # One that never had the view gets it as a whole.
    other, _ = worked(place, "late", events=list(whole.log))
    assert len(written(place, "late")) == len(numbers)
    assert len(other.log) == len(whole.log) + 1


def test_another_study_of_the_name_is_left_alone(place):
    worked(place)
    before = written(place)
    runner = FakeRunner()
    runner.state.opened[:] = [Opened(999.0, "another")]
    said = []
    goals = [aim.objective for aim in runner.driver.plan.aims]
    view = OptunaView(place, "s", goals, runner.state, runner.search.told, said.append)
    runner.driver.views = (view,)
    runner.run()
    view.close()
    (line,) = said
    assert "another study named s" in line
    assert [t.user_attrs for t in written(place)] == [t.user_attrs for t in before]
    assert not runner.state.interrupted()


def test_a_storage_that_breaks_is_said_once_and_ends_nothing(tmp_path):
    (tmp_path / "optuna.db").write_text("this is no database, and no study either")
    runner, said = worked(f"sqlite:///{tmp_path}/optuna.db")
    (line,) = said
    assert "optuna_storage sqlite:///" in line
    assert "goes on without it" in line
    assert runner.state.counts()["done"] >= 12


def test_predictions_are_stated():
    text = CONFIG.replace("startup: 4", "startup: 4, told: predicted")
    config = parse_config(text.replace("trials: 12", "trials: 20"))
    runner = FakeRunner(config).run()
    stated = [t for t in runner.search._optuna.trials if "predicted" in t.user_attrs]
    assert stated
    assert all(t.user_attrs["predicted"] == t.values for t in stated)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("sqlite:///no/such/folder/o.db", "the folder no/such/folder does not exist"),
        ("no/such/folder/o.log", "the folder no/such/folder does not exist"),
        ("nosql://somewhere", "expected sqlite:///FILE"),
        ("sqlite:/x://", "expected sqlite:///FILE"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_the_study(place, problem):
    with pytest.raises(InvalidSetting) as caught:
        parse_config(f"{CONFIG}optuna_storage: {place}\n", "c.yaml")
    (line,) = caught.value.errors
    assert line.startswith("c.yaml:")
    assert "optuna_storage" in line
    assert problem in line


def test_a_password_is_used_and_never_shown(tmp_path, monkeypatch):
    place = "postgresql://me:s3cret@localhost/db"
    config = parse_config(CONFIG).model_copy(update={"optuna_storage": place})
    assert config.optuna_storage == place
    assert config.to_json()["optuna_storage"] == "postgresql://***@localhost/db"
    asked, said = [], []

    def refuse(opened):
        asked.append(opened)
        raise ConnectionError(f"nobody answers at {opened}")

    monkeypatch.setattr("study.tracking.optuna_view._open", refuse)
    runner = FakeRunner(parse_config(CONFIG))
    with _shown_in(config, "s", runner, said):
        pass
    assert asked == [place]
    assert len(said) == 1
    assert "s3cret" not in said[0]
    assert "//***@localhost" in said[0]

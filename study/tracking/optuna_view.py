"""The search as an Optuna study in a database or a file, for ``optuna-dashboard`` and the like.

A view of the study log: nothing is read back, and the study goes on without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.masking import masked
from study.events import SEARCH, Answered, Ended, Event
from study.state import StudyState, TrialState
from trainables.record import Objective, Status

if TYPE_CHECKING:
    import optuna

STUDY = "paretune_study"  # the attribute that says which study an Optuna study is a view of
NUMBER = "number"  # the attribute that holds the number of a trial in the study log

Told = Callable[[int], "optuna.trial.FrozenTrial | None"]


def check_optuna_storage(place: str | None) -> str | None:
    """A database address or the path of a journal file, as given.

    Raises:
        ValueError: it is neither, its driver is not installed, or its folder does not exist.
    """
    if place is None:
        return None
    if "://" not in place:
        folder = Path(place).parent
    else:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            url = make_url(place)
            url.get_dialect().import_dbapi()
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ValueError(
                f"expected sqlite:///FILE, another database, or a journal file: {error}"
            ) from None
        if url.get_backend_name() != "sqlite":
            return place
        folder = Path(url.database or "").parent
    if not folder.is_dir():
        raise ValueError(f"{place}: the folder {folder} does not exist")
    return place


@contextmanager
def in_optuna(
    place: str | None,
    objectives: Sequence[Objective],
    name: str,
    state: StudyState,
    told: Told,
    say: Callable[[str], None] = print,
) -> Iterator[list[OptunaView]]:
    """The view of a study at a place; within the block. No place: none."""
    if place is None:
        yield []
        return
    view = OptunaView(place, name, objectives, state, told, say)
    try:
        yield [view]
    finally:
        view.close()


def _open(place: str) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    return RDBStorage(place) if "://" in place else JournalStorage(JournalFileBackend(place))


class OptunaView:
    """Writes each ended trial of the search to Optuna's storage. A :class:`study.loop.brief.View`.

    From a thread of its own: the study does not wait. What fails is said once, and the next
    process that works on the study writes what is missing.
    """

    def __init__(
        self,
        place: str,
        name: str,
        objectives: Sequence[Objective],
        state: StudyState,
        told: Told,
        say: Callable[[str], None] = print,
    ) -> None:
        self._place, self._name, self._objectives = place, name, tuple(objectives)
        self._state, self._told, self._say = state, told, say
        self._thread = ThreadPoolExecutor(1, "paretune-optuna")
        self._study: optuna.Study | None = None
        self._written: set[int] = set()
        self._failed = False
        self._submit(self._begin, state.study_id)
        for trial in list(state.trials.values()):
            self._write_if_ended(trial)

    def put(self, event: Event) -> None:
        """See :class:`study.loop.brief.View`."""
        if isinstance(event, Ended | Answered):
            self._write_if_ended(self._state.trials[event.number])

    def close(self) -> None:
        """Wait until everything is written."""
        self._thread.shutdown(wait=True)

    def _write_if_ended(self, trial: TrialState) -> None:
        if trial.role == SEARCH and trial.record and (told := self._told(trial.number)):
            self._submit(self._write, trial.number, _shown(trial, told))

    def _submit(self, work: Callable[..., None], *args: Any) -> None:
        if not self._failed:
            self._thread.submit(work, *args).add_done_callback(self._look)

    def _look(self, future: Future[None]) -> None:
        """Whatever a database raises, it is no reason to end a study."""
        if (error := future.exception()) is not None and not self._failed:
            self._failed = True
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            shown = masked(self._place)
            first = first.replace(self._place, shown)
            self._say(f"optuna_storage {shown}: {first}; the study goes on without it")

    def _begin(self, study_id: str) -> None:
        import optuna

        study = optuna.create_study(
            storage=_open(self._place),
            study_name=self._name,
            directions=[o.direction.value for o in self._objectives],
            load_if_exists=True,
        )
        trials, owner = study.get_trials(deepcopy=False), study.user_attrs.get(STUDY)
        if owner != study_id and (trials or owner):
            raise ValueError(f"holds another study named {self._name}")
        study.set_user_attr(STUDY, study_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([o.name for o in self._objectives])
        self._written = {trial.user_attrs[NUMBER] for trial in trials}
        self._study = study

    def _write(self, number: int, trial: optuna.trial.FrozenTrial) -> None:
        if self._study is not None and number not in self._written:
            self._study.add_trial(trial)
            self._written.add(number)


def _shown(trial: TrialState, told: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """What the searcher was told; a trial that it was told nothing of was pruned all the same."""
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    stopped = trial.record is not None and trial.record.outcome.status is Status.STOPPED
    return create_trial(
        state=State.PRUNED if stopped and not told.values else told.state,
        values=told.values,
        params=told.params,
        distributions=told.distributions,
        user_attrs={
            **told.user_attrs,
            NUMBER: trial.number,
            "trial_id": trial.trial_id,
            "status": trial.phase.value,
        },
        system_attrs={k: v for k, v in told.system_attrs.items() if k.startswith("constraints")},
    )

"""A study: checked before anything starts, then run to its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.masking import sayable
from analysis.telling import told
from compression.registry import InvalidSetting, errors_of
from study import checks, description
from study.config import StudyConfig
from study.loop.placement import Node
from study.result import StudyResult
from study.store.patience import Patience, to_stderr
from study.store.storage import Storage
from study.tracking import default_tracking_uri
from study.warm_start import Wish


class Study:
    """A study to be run, or to be gone on with.

    Args:
        config: made by ``load_config``, ``parse_config`` or ``make_config``.
        name: of its folder in the storage; where absent the config's name and the time.
        resume: go on with the study of that name.
        address: of a running Ray cluster; this machine where absent.
        quiet: no live view.
        warm_start: an earlier study, by name, path or URI, to begin with what it knows.
        promised: machines that the cluster would start if there were work for them.
    """

    def __init__(
        self,
        config: StudyConfig,
        name: str | None = None,
        resume: bool = False,
        address: str | None = None,
        quiet: bool = False,
        warm_start: str | None = None,
        promised: Sequence[Node] = (),
    ) -> None:
        self.config, self.resume, self.address = config, resume, address
        self.quiet, self._told = quiet, False
        self._promised = tuple(promised)
        self.name = name or checks.new_name(config.name)
        self.root = Storage.open(config.storage)
        self.wish = Wish(warm_start, config.storage, self.name, resume)
        self.tracking_uri = config.tracking_uri or default_tracking_uri()

    @property
    def storage(self) -> Storage:
        """The study's folder; its name was checked before."""
        return self.root.sub(self.name)

    def check(self) -> None:
        """Find out what is wrong and cheap to know.

        Raises:
            InvalidSetting: all problems at once.
        """
        config = self.config
        problems = {
            "storage": checks.storage_problem(config.storage),
            "name": checks.name_problem(config.storage, self.name, self.resume),
            "tracking_uri": None if self.resume else checks.tracking_problem(self.tracking_uri),
            "address": checks.address_problem(self.address),
            "resources": None if self.address else checks.resources_problem(config.resources),
            "accelerator_budget": None
            if self.address
            else checks.accelerator_problem(config.accelerator_budget),
        }
        said = {"name": "--name", "address": "--address"}
        space, errors = config.search_space(), list[str]()
        for key, text in problems.items():
            if text:
                errors.append(f"{said.get(key) or config.where(key)}: {text}")
        if not problems["storage"] and not problems["name"]:
            errors += errors_of(lambda: self.wish.answer(space, config.seed))
        if errors:
            raise InvalidSetting(errors)
        self._compare(description.asked(config))
        self._say_tracking()

    def _say_tracking(self) -> None:
        """A study that goes on does not wait for MLflow: that it is away is said, once."""
        if not self.resume or self._told:
            return
        self._told = True
        if problem := checks.tracking_problem(self.tracking_uri):
            where = self.config.where("tracking_uri")
            later = f"the study goes on; `python -m study.sync {self.name}` brings MLflow up to it"
            to_stderr(sayable(f"{where}: {problem}; {later}"))

    def _cpus(self) -> int:
        """CPUs to start Ray with: more than there are, if the user wants so many trials at once."""
        config, wanted = self.config, self.config.concurrency
        least = 0 if wanted == "auto" else wanted * config.resources.cpus
        return max(checks.cores(), least)

    def _compare(self, asked: Mapping[str, Any]) -> None:
        """Refuse to go on with a study of another identity, as far as ``asked`` goes."""
        stored = description.stored_identity(self.storage) if self.resume else None
        if stored is None:
            return
        # As JSON on both sides: what was a tuple in memory is a list in the file.
        now = json.loads(json.dumps(asked))
        if errors := checks.identity_errors({k: stored.get(k) for k in now}, now):
            raise InvalidSetting(errors)

    def run(self) -> StudyResult:
        """Run the study to its end, or until a signal interrupts it.

        Raises:
            InvalidSetting: as :meth:`check`; or other weights or data than those of the study that
                is to be resumed.
            StorageError: another process writes the study, or its files can't be written.
        """
        from study.loop.setting import Setting
        from study.once import prepared
        from study.session import Session

        self.check()
        with told(
            (lambda line: None) if self.quiet else to_stderr, "loading the model and the data"
        ):
            data = prepared(self.config)
        self._compare(description.identity(self.config, data))
        space = self.config.search_space()
        warm = self.wish.answer(space, self.config.seed, data.fingerprint)
        setting = Setting(
            self.config,
            data,
            self.name,
            self.root.patient(Patience(self.config.storage_patience)),
            self.tracking_uri,
            self._cpus(),
            self.resume,
            self.address,
            self.quiet,
            warm,
            self._promised,
        )
        return Session(setting).run()

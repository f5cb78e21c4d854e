"""What a cluster file says to Paretune, under ``metadata.study``, which Ray leaves to its users."""

from __future__ import annotations

import platform
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_MINOR = ".".join(platform.python_version_tuple()[:2])
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """The keys of ``metadata.study``.

    Attributes:
        storage: folder or URI of the studies, which every node reaches.
        tracking_uri: an MLflow server that the head reaches. Absent: one is started on the head,
            on its loopback, and reached through a tunnel.
        artifacts: where that server keeps artifacts; absent: ``mlflow`` in ``storage`` if that is
            an object store, else beside its database, on the head.
        trials_per_gpu: trials that share a card.
        price: US dollars an hour, by node type; spot prices move, so these are the file's word.
        python: minor version that every node is to have.
        extras: of paretune, to be installed on the nodes.
        plugins: files of the user's, beside those that the study's config names.
        environment: variables of the study's processes; no secrets, they are shown by Ray.
        idle_minutes: the dead-man switch: a head without a job for so long ends the cluster.
        idle_command: what it runs then; absent: what the kind of cluster does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str | None = None
    tracking_uri: str | None = None
    artifacts: str | None = None
    trials_per_gpu: int = Field(1, ge=1, le=1000)
    price: dict[str, Annotated[float, Field(ge=0)]] = {}
    python: str = Field(_MINOR, pattern=r"^3\.1[0-9]$")
    extras: tuple[Word, ...] = ()
    plugins: tuple[str, ...] = ()
    environment: dict[Variable, str] = {}
    idle_minutes: Positive = 30.0
    idle_command: str | None = None

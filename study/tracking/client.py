"""MLflow's client, with files of runs by their address."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri


class Client(MlflowClient):
    """MLflow's own methods for files ask each time for the run, all of it, to learn its address."""

    def put_file(self, address: str, path: str, folder: str | None = None) -> None:
        """Copy a file of this machine to a run's ``artifact_uri``."""
        self._at(address).log_artifact(path, folder)  # type: ignore[no-untyped-call]

    def files_at(self, address: str, folder: str | None = None) -> list[FileInfo]:
        """What stands there."""
        return list(self._at(address).list_artifacts(folder))

    def _at(self, address: str) -> ArtifactRepository:
        here = self.tracking_uri
        uri = add_databricks_profile_info_to_artifact_uri(address, here)  # type: ignore[no-untyped-call]
        return get_artifact_repository(uri, tracking_uri=here)

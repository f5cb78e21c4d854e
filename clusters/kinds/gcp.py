"""Google's cloud: Ray's ``gcp`` provider. What is asked of Google itself is not looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from clusters.check import Check
from clusters.file import ClusterFile
from clusters.kinds.kind import Kind
from clusters.ssh import key_check

_PACKAGES = ("googleapiclient", "google_auth_httplib2", "cryptography")
_LOGIN = "gcloud auth application-default login"


class Gcp(Kind):
    """Instances of Compute Engine, storage in Cloud Storage."""

    name = "gcp"

    def checks(self, file: ClusterFile) -> Iterator[Check]:
        """Packages, credentials, project and key, as far as this machine knows them."""
        yield _packages()
        yield credentials()
        yield _project(file)
        yield _storage(file)
        yield key_check(file)
        yield Check(
            "project's state",
            problem="quota, images, roles and the bucket are not looked at on this cloud",
            mend="`gcloud compute regions describe REGION` shows limits; the bill shows the rest",
            warning=True,
        )

    def idle_command(self, file: ClusterFile) -> str:
        """A head that only shut down would keep its disk: it deletes itself, by its own rights."""
        zone = str(file.provider.get("availability_zone", ""))
        delete = f'gcloud --quiet compute instances delete "$(hostname)" --zone {zone}'
        return f"{delete} || sudo shutdown -h now"


def _packages() -> Check:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        problem = f"not installed: {', '.join(missing)}"
        return Check("packages", problem=problem, mend="pip install 'paretune[gcp]'")
    return Check("packages", ", ".join(_PACKAGES))


def credentials() -> Check:
    """Whether there are application-default credentials; whether Google takes them is not asked."""
    name, named = "credentials", os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    settings = os.environ.get("CLOUDSDK_CONFIG", "~/.config/gcloud")
    usual = Path(settings).expanduser() / "application_default_credentials.json"
    path = Path(named) if named else usual
    try:
        kind = json.loads(path.read_text()).get("type")
    except OSError:
        problem = f"there are none at {path}"
        return Check(name, problem=problem, mend=_LOGIN)
    except (ValueError, AttributeError):
        return Check(name, problem=f"{path} is no file of credentials", mend=_LOGIN)
    return Check(name, f"{kind}, {path}")


def _project(file: ClusterFile) -> Check:
    where, project = file.at("provider", "project_id"), file.provider.get("project_id")
    if not project or "YOUR-PROJECT" in json.dumps(file.data):
        return Check("project", problem=f"{where}: no project is named", mend="your project's id")
    return Check("project", str(project))


def _storage(file: ClusterFile) -> Check:
    where, storage = file.at("metadata", "study", "storage"), file.settings.storage or ""
    if "://" not in storage or "YOUR-BUCKET" in storage:
        problem = f"{where}: {storage!r} is nothing that all nodes reach"
        return Check("bucket", problem=problem, mend="storage: gs://BUCKET/studies")
    return Check("bucket", storage)

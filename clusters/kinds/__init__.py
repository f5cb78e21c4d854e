"""Kinds of clusters by the ``provider.type`` of their files: a file each, a line here."""

from __future__ import annotations

from collections.abc import Mapping

from clusters.kinds.aws import Aws
from clusters.kinds.gcp import Gcp
from clusters.kinds.kind import Kind
from clusters.kinds.onprem import OnPrem

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Aws(), Gcp(), OnPrem())}

"""Files in this folder that another launcher than Ray's takes."""

from __future__ import annotations

import re

_KUBERAY = re.compile(r"^apiVersion:\s*[\"']?ray\.io/", re.MULTILINE)
_SLURM = re.compile(r"^#SBATCH\b", re.MULTILINE)
_COMMANDS = (
    (_KUBERAY, "a manifest for KubeRay", "kubectl apply -f"),
    (_SLURM, "a batch script for Slurm", "sbatch"),
)


def foreign(text: str, source: str) -> str | None:
    """What to say of a file of another launcher, with the command that takes it."""
    for pattern, what, command in _COMMANDS:
        if pattern.search(text):
            return f"{source}: this is {what}; start it by `{command} {source}`"
    return None

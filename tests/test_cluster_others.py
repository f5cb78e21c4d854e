"""Files of other launchers are recognised, and the command that takes them is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from clusters.others import foreign
from study import doctor, run


@pytest.mark.parametrize(
    ("path", "command"),
    [("clusters/kuberay.yaml", "kubectl apply -f"), ("clusters/slurm.sh", "sbatch")],
)
@pytest.mark.parametrize("main", [run.main, doctor.main], ids=["run", "doctor"])
def test_ours_for_another_launcher_are_answered_with_its_command(main, path, command) -> None:
    done = CliRunner().invoke(main, ["--cluster", path])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0].endswith(f"start it by `{command} {path}`")


@pytest.mark.parametrize("path", sorted(Path("clusters").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_file_is_of_one_launcher(path: Path) -> None:
    text = path.read_text()
    assert (foreign(text, "f") is None) == ("cluster_name:" in text)


@pytest.mark.parametrize(
    "text", ["apiVersion: ray.io/v1\n", "a: 1\n---\napiVersion: 'ray.io/v1alpha1'\n"]
)
def test_any_document_of_a_manifest_counts(text: str) -> None:
    assert "KubeRay" in (foreign(text, "f") or "")


@pytest.mark.parametrize("text", ["", "# apiVersion: ray.io/v1\n", "x: '#SBATCH'\n", "kind: Pod\n"])
def test_what_only_looks_like_one_does_not(text: str) -> None:
    assert foreign(text, "f") is None

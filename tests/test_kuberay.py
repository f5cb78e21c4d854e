"""The manifest for KubeRay, held against the fields that its operator knows."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MANIFEST = Path("clusters/kuberay.yaml")
# The fields that we use, by name and type, of KubeRay's RayJob and RayCluster, API ray.io/v1
# (docs/reference/api.md of ray-project/kuberay), and of Kubernetes' pods. Whoever has the published
# definition names it in PARETUNE_KUBERAY_CRD, and the manifest is held against all of it.
TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def item(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def many(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


POD = item(
    ("spec",),
    spec=item(
        ("containers",),
        containers=many(
            item(
                ("name", "image"),
                name=TEXT,
                image=TEXT,
                command=many(TEXT),
                env=many(item(("name", "value"), name=TEXT, value=TEXT)),
                resources=item(requests=TEXTS, limits=TEXTS),
                volumeMounts=many(item(("name", "mountPath"), name=TEXT, mountPath=TEXT)),
            )
        ),
        volumes=many(
            item(
                ("name",),
                name=TEXT,
                configMap=item(name=TEXT),
                persistentVolumeClaim=item(("claimName",), claimName=TEXT),
            )
        ),
    ),
)
CLUSTER = item(
    ("headGroupSpec",),
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=item(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    authOptions=item(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    headGroupSpec=item(("template",), rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=many(
        item(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        )
    ),
)
JOB = item(
    ("spec",),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=item(("name",), name=TEXT),
    spec=item(
        entrypoint=TEXT,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=CLUSTER,
    ),
)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


@pytest.fixture
def job(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(documents[0])


def errors(job: dict[str, Any]) -> list[str]:
    return [each.message for each in jsonschema.Draft7Validator(JOB).iter_errors(job)]


def test_the_manifest_has_fields_that_kuberay_knows(job: dict[str, Any]) -> None:
    assert errors(job) == []


@pytest.mark.parametrize("key", ["minReplica", "maxWorkers"])
def test_a_misspelt_field_would_be_seen(job: dict[str, Any], key: str) -> None:
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0][key] = 1
    assert any(key in each for each in errors(job))


def test_it_opens_with_its_command_and_its_price() -> None:
    lines = MANIFEST.read_text().splitlines()
    assert lines[0] == "# kubectl apply -f clusters/kuberay.yaml"
    assert any("costs an hour" in line for line in lines[:5])


def test_workers_come_and_go_from_none(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert group["minReplicas"] == 0
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_nobody_gets_in_without_the_token_and_mlflow_is_on_loopback(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    _, mlflow = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    command = mlflow["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_what_pods_mount_is_there(job: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    spec = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {each["name"] for c in spec["containers"] for each in c["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["volumes"]}
    asked = {
        each.get("configMap", {}).get("name") or each["persistentVolumeClaim"]["claimName"]
        for each in spec["volumes"]
    }
    assert asked == {each["metadata"]["name"] for each in documents[1:]}


def test_the_command_and_the_study_are_ours(
    job: dict[str, Any], documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    from study.config import load_config
    from study.run import main

    words = job["spec"]["entrypoint"].split()
    options = {option for each in main.params for option in each.opts}
    assert words[:3] == ["python", "-m", "study.run"]
    assert {word for word in words if word.startswith("--")} <= options
    path = tmp_path / "study.yaml"
    path.write_text(documents[1]["data"]["study.yaml"])
    assert load_config(path, {}).name == "study"


def test_rays_version_is_the_one_that_we_need(job: dict[str, Any]) -> None:
    from importlib.metadata import version

    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


@pytest.mark.skipif("PARETUNE_KUBERAY_CRD" not in os.environ, reason="no published definition")
def test_the_published_definition_takes_it(job: dict[str, Any]) -> None:
    """``ray.io_rayjobs.yaml`` of the operator's chart."""
    published = yaml.safe_load(Path(os.environ["PARETUNE_KUBERAY_CRD"]).read_text())
    (v1,) = [each for each in published["spec"]["versions"] if each["name"] == "v1"]
    spec = _strict(v1["schema"]["openAPIV3Schema"]["properties"]["spec"])
    found = jsonschema.Draft7Validator(spec).iter_errors(job["spec"])
    assert [each.message for each in found] == []


def _strict(schema: Any) -> Any:
    """Kubernetes drops fields that it does not know; here they are errors."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {
        key: _strict(value) for key, value in schema.items() if key not in ("format", "default")
    }
    if "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made

"""The RayJob manifest: fields and types of the published custom resource, and a command that this project understands.

Without a cluster nobody can apply it; what can be checked offline is that every field of the ray.io part exists in
KubeRay's API with that type (ray.io/v1, read from its public type definitions), and that resources and options agree.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.main import get_command

from orchestration.cli import app

MANIFEST = Path(__file__).parents[2] / "orchestration/kuberay/rayjob.yaml"


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # ray start parameters must be quoted
POD = {
    "type": "object",
    "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", "required": ["containers"]}},
    "required": ["spec"],
    "additionalProperties": False,
}
AUTOSCALER = fields(
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=WHOLE,
    resources={"type": "object"},
    image=TEXT,
    imagePullPolicy=TEXT,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    securityContext={"type": "object"},
    version={"enum": ["v1", "v2"]},
)
WORKERS = fields(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    idleTimeoutSeconds=WHOLE,
    rayStartParams=TEXTS,
    template=POD,
    scaleStrategy={"type": "object"},
)
CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=TEXTS,
    headGroupSpec=fields(
        ("rayStartParams", "template"),
        serviceType=TEXT,
        headService={"type": "object"},
        enableIngress=FLAG,
        rayStartParams=TEXTS,
        template=POD,
    ),
    workerGroupSpecs={"type": "array", "items": WORKERS},
    suspend=FLAG,
)
JOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object", "required": ["name"]},
    spec=fields(
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        backoffLimit=WHOLE,
        rayClusterSpec=CLUSTER,
        submitterPodTemplate=POD,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=fields(backoffLimit=WHOLE),
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        entrypointResources=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=WHOLE,
        shutdownAfterJobFinishes=FLAG,
        suspend=FLAG,
    ),
)


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return found


def test_every_field_is_one_of_the_published_resource(manifest: dict[str, Any]) -> None:
    assert [error.message for error in Draft202012Validator(JOB).iter_errors(manifest)] == []


def test_the_command_is_one_that_this_project_understands(manifest: dict[str, Any], tiny_pasture: Path) -> None:
    words = shlex.split(manifest["spec"]["entrypoint"])
    words[words.index("--data") + 1] = str(tiny_pasture)  # the cluster's path is not on this machine
    assert words[:4] == ["python", "-m", "orchestration", "search"]
    search = get_command(app).commands["search"]  # type: ignore[attr-defined]
    given = search.make_context("search", words[4:]).params
    assert given["gpus_per_fold"] == 1.0 and given["slots"] == 8 and given["cache_gb"] == 80.0


def test_resources_mounts_and_options_agree(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    head, worker = (part["template"]["spec"]["containers"][0] for part in (spec["headGroupSpec"], group))
    assert head["image"] == worker["image"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert group["maxReplicas"] == 8 and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for part in (spec["headGroupSpec"], group):
        pod = part["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes

"""The Kubernetes manifests and their image agree with each other, with the project and with KubeRay's published schema.

KubeRay's schema is not part of this project: FLOWPAIRS_KUBERAY_CRDS names a directory that has its files
ray-operator/config/crd/bases/ray.io_rayclusters.yaml and ray.io_rayjobs.yaml.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import flowpairs

PROJECT = Path(__file__).resolve().parents[2]
KUBERAY = PROJECT / "configs" / "kuberay"
MANIFESTS = {"RayCluster": "raycluster.yaml", "RayJob": "rayjob.yaml"}
CONTAINERFILE = (KUBERAY / "Containerfile").read_text()


def manifest(kind: str) -> dict:
    return yaml.safe_load((KUBERAY / MANIFESTS[kind]).read_text())


def cluster_of(kind: str) -> dict:
    """The cluster's part of a manifest."""
    spec = manifest(kind)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(kind: str) -> list[dict]:
    """The pod of the head, then those of the workers."""
    cluster = cluster_of(kind)
    return [group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]


def strict(schema: Any) -> Any:
    """The schema without room for fields that it does not name, which Kubernetes would drop in silence."""
    if not isinstance(schema, dict):
        return schema
    out = {key: [strict(part) for part in v] if isinstance(v, list) else strict(v) for key, v in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


@pytest.mark.parametrize("kind", MANIFESTS)
def test_they_fit_kuberays_schema(kind: str) -> None:
    if not (directory := os.environ.get("FLOWPAIRS_KUBERAY_CRDS")):
        pytest.skip("FLOWPAIRS_KUBERAY_CRDS names no directory with KubeRay's CRDs")
    crd = yaml.safe_load((Path(directory) / f"ray.io_{kind.lower()}s.yaml").read_text())
    ours = manifest(kind)
    [version] = [v for v in crd["spec"]["versions"] if f"ray.io/{v['name']}" == ours["apiVersion"]]
    schema = strict(version["schema"]["openAPIV3Schema"])
    jsonschema.validate(ours, schema)
    with pytest.raises(jsonschema.ValidationError, match="idleMinutes"):
        jsonschema.validate(ours | {"spec": ours["spec"] | {"idleMinutes": 10}}, schema)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_image_and_ray_are_those_of_the_container_file(kind: str) -> None:
    pinned = re.search(r"^ray==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)[1]
    ours = flowpairs.__version__
    assert f"FROM rayproject/ray:{pinned}-py311-gpu" in CONTAINERFILE
    assert f"flowpairs:{ours}-ray{pinned} ." in CONTAINERFILE
    assert cluster_of(kind)["rayVersion"] == pinned
    images = {container["image"] for pod in pods(kind) for container in pod["containers"]}
    assert images == {f"REPLACE/flowpairs:{ours}-ray{pinned}"}


def test_the_container_file_copies_what_is_there_and_what_the_package_needs() -> None:
    copied = [name for line in re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", CONTAINERFILE, re.M) for name in line.split()]
    assert [name for name in copied if not (PROJECT / name).exists()] == []
    assert {"pipeline", "jobs", "training", "configs", "pyproject.toml", "constraints.txt"} <= set(copied)
    project = (PROJECT / "pyproject.toml").read_text()
    needed = re.findall(r'^(?:readme = |license-files = \[)"(\S+?)"', project, re.MULTILINE)
    assert needed
    assert set(needed) <= set(copied)
    extras = re.search(r"'\.\[(\S+)\]'", CONTAINERFILE)[1].split(",")
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []


@pytest.mark.parametrize("kind", MANIFESTS)
def test_heads_stay_and_gpu_workers_come_and_go(kind: str) -> None:
    cluster = cluster_of(kind)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "else reading data would run on the head"
    head, *workers = pods(kind)
    [term] = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [away] = term["matchExpressions"]
    assert away["operator"] == "DoesNotExist"
    for group, worker in zip(cluster["workerGroupSpecs"], workers, strict=True):
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert worker["nodeSelector"] == {away["key"]: "true"}, "the label that the head keeps away from"
        assert {"nvidia.com/gpu", away["key"]} == {toleration["key"] for toleration in worker["tolerations"]}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_resources_are_limits_and_one_gpu_is_for_workers_alone(kind: str) -> None:
    gpus = []
    for pod in pods(kind):
        [container] = pod["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "what Ray counts is what the node sets aside"
        gpus.append(resources["limits"].get("nvidia.com/gpu"))
    assert gpus == [None, "1"]
    for group in [cluster_of(kind)["headGroupSpec"], *cluster_of(kind)["workerGroupSpecs"]]:
        [container] = group["template"]["spec"]["containers"]
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
        assert int(group["rayStartParams"].get("object-store-memory", 0)) < memory


@pytest.mark.parametrize("kind", MANIFESTS)
def test_every_node_mounts_the_shared_claim_and_asks_for_the_token(kind: str) -> None:
    claim = yaml.safe_load((KUBERAY / "storage.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(kind):
        [volume], [container] = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/mnt/flowpairs"}]
    assert cluster_of(kind)["authOptions"] == {"mode": "token"}


def test_the_jobs_command_is_one_of_ours_with_a_config_that_holds() -> None:
    """As far as the data, which are not here: everything before them was accepted."""
    program, *arguments = shlex.split(manifest("RayJob")["spec"]["entrypoint"])
    assert program == "flowpairs"
    inside = re.search(r"^WORKDIR (\S+)$", CONTAINERFILE, re.MULTILINE)[1]
    arguments = [argument.replace(f"{inside}/", f"{PROJECT}/") for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.path='/mnt/flowpairs/data/imagenet-64'")
    given = dict(argument.split("=", 1) for argument in arguments[2:])
    assert given["data.path"].startswith("/mnt/flowpairs/"), "on what all nodes share"
    assert given["output.dir"].startswith("/mnt/flowpairs/")
    [workers] = cluster_of("RayJob")["workerGroupSpecs"]
    assert int(given["cluster.actors"]) * int(given["cluster.gpus_per_actor"]) <= workers["maxReplicas"]

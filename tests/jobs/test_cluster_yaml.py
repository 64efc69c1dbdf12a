"""cluster.yaml is what Ray's launcher accepts, and agrees with the rest of the project."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((PROJECT / "cluster.yaml").read_text())


def test_it_fits_rays_own_schema(cluster):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"idle_minutes": 10}, schema)


def test_the_launcher_accepts_it_with_its_defaults(cluster):
    prepared = prepare_config(cluster)
    validate_config(prepared)
    gpu = prepared["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"], prepared["max_workers"]) == (0, 8, 8)


def test_its_image_holds_the_pinned_ray(cluster):
    pinned = re.search(r"^ray==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert cluster["docker"]["image"] == f"rayproject/ray:{pinned}-py311-gpu"


def test_nothing_but_the_driver_runs_on_the_head(cluster):
    nodes = cluster["available_node_types"]
    assert nodes[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in nodes[cluster["head_node_type"]]["node_config"]


def test_every_node_has_the_token_and_the_shared_storage(cluster):
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "-v /mnt/flowpairs:/mnt/flowpairs" in cluster["docker"]["run_options"]
    assert any("mount -t nfs4" in command for command in cluster["initialization_commands"])


def test_it_holds_no_account_of_ours(cluster):
    text = (PROJECT / "cluster.yaml").read_text()
    assert text.count("REPLACE") == 3
    assert not re.search(r"\b(ami|fs|subnet|sg)-[0-9a-f]{8,}", text)

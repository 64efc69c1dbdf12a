"""Joining or starting Ray."""

import atexit
import logging
import os
import time
from collections.abc import Sequence

import ray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.shapes import fit, nodes
from flowpairs.pipeline.config import ClusterConfig


def connect(config: ClusterConfig | None = None, beside: Sequence[dict[str, float]] = ()) -> None:
    """Join the cluster of RAY_ADDRESS where set, else start Ray on this machine. A second call changes nothing.

    Args:
        config: whose actors an autoscaler is asked for, where it says how long to wait for their nodes.
        beside: what it is asked for besides, in Ray's words a bundle each.

    Raises:
        InputError: RAY_ADDRESS is the URL of a dashboard, which takes jobs and no drivers.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS={address!r}: takes jobs only; use `flowpairs submit`, or unset RAY_ADDRESS to run here"
        )
    if address == "local":  # a cluster of this process alone: its token is nobody's concern
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    dashboard = False if address == "local" else None
    ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
    if config is not None and config.scale_seconds:
        _scale(config, list(beside))


def _scale(config: ClusterConfig, beside: list[dict[str, float]]) -> None:
    """Ask the autoscaler for what a job takes, and wait for it; when this process ends, its nodes may go.

    Where they do not come in time, `actor_shape` says what is there.
    """
    from ray.autoscaler.sdk import request_resources

    actors, gpus = config.actors, config.gpus_per_actor
    assert actors != "auto"
    assert gpus != "auto"
    cpus = 1 if config.cpus_per_actor == "auto" else config.cpus_per_actor
    each = {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})
    atexit.register(request_resources, bundles=[])  # a request outlives who made it; this comes before Ray's shutdown
    bundles = [each] * actors + beside
    request_resources(bundles=bundles)
    total = {kind: sum(bundle.get(kind, 0) for bundle in bundles) for kind in ("CPU", "GPU")}

    def there() -> bool:
        have = ray.cluster_resources()
        all_of_it = all(have.get(kind, 0) >= count for kind, count in total.items())
        return all_of_it and fit(*nodes(), cpus, gpus) >= actors

    deadline = time.monotonic() + config.scale_seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(1)

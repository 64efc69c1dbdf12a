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
    """Join the cluster of RAY_ADDRESS where it is set, else start Ray on this machine. A second call changes nothing.

    Args:
        config: config of the actors to request from an autoscaler; its `scale_seconds` says how long to wait for nodes.
        beside: further bundles to request, each as a dictionary of Ray's resources.

    Raises:
        InputError: RAY_ADDRESS is the URL of a dashboard, which takes jobs but no drivers.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS={address!r}: takes jobs only; use `flowpairs submit`, or unset RAY_ADDRESS to run here"
        )
    if address == "local":  # a cluster that only this process uses: Ray's warnings about its token do not matter
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    dashboard = False if address == "local" else None
    ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
    if config is not None and config.scale_seconds:
        _scale(config, list(beside))


def _scale(config: ClusterConfig, beside: list[dict[str, float]]) -> None:
    """Request from the autoscaler what a job takes, and wait for it; the nodes may go when this process ends.

    Where they do not come in time, `actor_shape` reports which nodes there are.
    """
    from ray.autoscaler.sdk import request_resources

    actors, gpus = config.actors, config.gpus_per_actor
    assert actors != "auto"
    assert gpus != "auto"
    cpus = 1 if config.cpus_per_actor == "auto" else config.cpus_per_actor
    each = {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})
    atexit.register(request_resources, bundles=[])  # a request outlives its process; this runs before Ray's shutdown
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

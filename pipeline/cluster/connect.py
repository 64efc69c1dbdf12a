"""Joining or starting Ray, and what one actor may ask of it."""

import atexit
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group_table

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import ClusterConfig

Taken = dict[str, tuple[float, float]]  # CPUs and GPUs that are taken, by the node's id


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
        return all_of_it and _fit(*_offers(), cpus, gpus) >= actors

    deadline = time.monotonic() + config.scale_seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(1)


def placements() -> dict[str, Taken]:
    """What every placement group holds on which nodes, by its id; of those that have been placed."""
    out = {}
    for name, group in placement_group_table().items():
        if group["state"] == "CREATED":
            held: Taken = {}
            for number, node in group["bundles_to_node_id"].items():
                cpus, gpus = held.get(node, (0.0, 0.0))
                bundle = group["bundles"][number]
                held[node] = cpus + bundle.get("CPU", 0.0), gpus + bundle.get("GPU", 0.0)
            out[name] = held
    return out


def _offers(taken: Taken | None = None) -> tuple[list[int], list[float]]:
    """CPUs and GPUs of every live node, without those that are taken."""
    cpus, gpus = [], []
    for node in (node for node in ray.nodes() if node["Alive"]):
        cpu, gpu = (taken or {}).get(node["NodeID"], (0.0, 0.0))
        cpus.append(int(node["Resources"].get("CPU", 0) - cpu))
        gpus.append(node["Resources"].get("GPU", 0.0) - gpu)
    return cpus, gpus


def _fit(cpus: list[int], gpus: list[float], cpus_each: int, gpus_each: float) -> int:
    """How many actors of that size find room on nodes of these CPUs and GPUs."""
    per_gpu = [math.floor(g / gpus_each) if gpus_each else math.inf for g in gpus]
    return sum(int(min(c // cpus_each, g)) for c, g in zip(cpus, per_gpu, strict=True))


def in_submitted_job() -> bool:
    """Whether this process is the driver of a `ray job submit`, whose working directory is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@dataclass(frozen=True)
class ActorShape:
    """How many actors of which size."""

    actors: int
    cpus: int
    gpus: float


def takes_gpus(config: ClusterConfig) -> float:
    """GPUs that one actor takes: where the config leaves it open, one on a cluster that has any."""
    if config.gpus_per_actor != "auto":
        return config.gpus_per_actor
    return 1.0 if max(_offers()[1]) >= 1 else 0.0


def actor_shape(config: ClusterConfig, blocks: int, taken: Taken | None = None) -> ActorShape:
    """Decide on actors from the live nodes: one a GPU where there are GPUs, else one a CPU core.

    Never more than the blocks keep busy; fewer actors than cores share the cores evenly, as far as each fits on one
    node. Where several solve a block together, their number is a multiple of a team's size.

    Args:
        config: what is asked for.
        blocks: that are left to do.
        taken: what others hold of the nodes.

    Raises:
        InputError: the cluster cannot hold the actors that the configuration asks for.
    """
    (cpus, gpus), per_actor = _offers(taken), takes_gpus(config)
    least = 1 if config.cpus_per_actor == "auto" else config.cpus_per_actor
    room = _fit(cpus, gpus, least, per_actor)
    have = f"the cluster has nodes of {cpus} CPUs and {gpus} GPUs" + (" besides what is taken" if taken else "")
    if room < 1:
        wanted = f"cluster.cpus_per_actor={config.cpus_per_actor}, cluster.gpus_per_actor={config.gpus_per_actor}"
        raise InputError(f"{wanted}: not one such actor fits, {have}; lower them or give auto")
    if config.actors != "auto" and config.actors > room:
        raise InputError(f"cluster.actors={config.actors}: only {room} fit, {have}; lower it or give auto")
    team = config.actors_per_block
    if room < team:
        raise InputError(f"cluster.actors_per_block={team}: only {room} such actors fit, {have}; lower it")
    actors = min((room if config.actors == "auto" else config.actors) // team, max(1, blocks)) * team
    if config.cpus_per_actor != "auto":
        return ActorShape(actors, least, per_actor)
    most = max(c for c in range(1, max(cpus) + 1) if _fit(cpus, gpus, c, per_actor) >= actors)
    return ActorShape(actors, most, per_actor)


def room(shape: ActorShape) -> list[tuple[int, float]]:
    """How many such actors every live node will hold at once, and the bytes of memory that Ray counts there."""
    out, left = [], shape.actors
    for node in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        held = int(node.get("CPU", 0)) // shape.cpus
        if shape.gpus:
            held = min(held, math.floor(node.get("GPU", 0.0) / shape.gpus))
        held = min(held, left)
        left -= held
        if held:
            out.append((held, node["memory"]))
    return out

"""The number and size of actors, decided from the live nodes of a cluster.

Ray is imported only where nodes are asked for, so that a job in one process needs no Ray.
"""

import math
from dataclasses import dataclass

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import ClusterConfig


@dataclass(frozen=True)
class ActorShape:
    """The number of actors and the CPUs and GPUs of each."""

    actors: int
    cpus: int
    gpus: float


def nodes() -> tuple[list[int], list[float]]:
    """List the CPUs and the GPUs of all live nodes."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [int(node.get("CPU", 0)) for node in alive], [node.get("GPU", 0.0) for node in alive]


def fit(cpus: list[int], gpus: list[float], cpus_each: int, gpus_each: float) -> int:
    """Count how many actors of this size fit on nodes with these CPUs and GPUs."""
    per_gpu = [math.floor(g / gpus_each) if gpus_each else math.inf for g in gpus]
    return sum(int(min(c // cpus_each, g)) for c, g in zip(cpus, per_gpu, strict=True))


def takes_gpus(config: ClusterConfig) -> float:
    """Decide how many GPUs one actor takes: where the config leaves it open, one on a cluster that has any."""
    if config.gpus_per_actor != "auto":
        return config.gpus_per_actor
    return 1.0 if max(nodes()[1]) >= 1 else 0.0


def actor_shape(config: ClusterConfig, blocks: int) -> ActorShape:
    """Decide on actors from the live nodes: one per GPU where there are GPUs, else one per CPU core.

    There are never more actors than blocks keep busy. Fewer actors than cores share the cores evenly, as far as each
    actor fits on one node. Where several actors solve a block together, the number is a multiple of the team's size.

    Args:
        config: number and size of actors that are asked for.
        blocks: number of blocks left to do.

    Raises:
        InputError: the cluster cannot hold the actors that the configuration asks for.
    """
    (cpus, gpus), per_actor = nodes(), takes_gpus(config)
    least = 1 if config.cpus_per_actor == "auto" else config.cpus_per_actor
    most = fit(cpus, gpus, least, per_actor)
    have = f"the cluster has nodes of {cpus} CPUs and {gpus} GPUs"
    if most < 1:
        wanted = f"cluster.cpus_per_actor={config.cpus_per_actor}, cluster.gpus_per_actor={config.gpus_per_actor}"
        raise InputError(f"{wanted}: not one such actor fits, {have}; lower them or give auto")
    if config.actors != "auto" and config.actors > most:
        raise InputError(f"cluster.actors={config.actors}: only {most} fit, {have}; lower it or give auto")
    team = config.actors_per_block
    if most < team:
        raise InputError(f"cluster.actors_per_block={team}: only {most} such actors fit, {have}; lower it")
    actors = min((most if config.actors == "auto" else config.actors) // team, max(1, blocks)) * team
    if config.cpus_per_actor != "auto":
        return ActorShape(actors, least, per_actor)
    widest = max(c for c in range(1, max(cpus) + 1) if fit(cpus, gpus, c, per_actor) >= actors)
    return ActorShape(actors, widest, per_actor)


def capacity(shape: ActorShape) -> list[tuple[int, float]]:
    """Compute how many such actors each live node will hold at once, and the bytes of memory that Ray counts there."""
    import ray

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

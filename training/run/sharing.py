"""Division of a cluster between train workers and coupling actors, such that both fit whichever Ray starts first.

Ray chooses the nodes of two independent jobs freely. So the worst case counts: as many actors as fit wherever the
workers are, and as leave room for the workers wherever the actors are.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig
from flowpairs.training.run.workers import Node, WorkerShape, fit_workers, gpus_per_actor

Value = tuple[float, int, int, int]  # the value of a choice, compared lexicographically


def share_nodes(
    nodes: Sequence[Node], train: TrainClusterConfig, couple: ClusterConfig, blocks: int
) -> tuple[WorkerShape, ActorShape]:
    """Choose the workers, and the actors that run alongside them.

    The workers are those of `fit_workers`. Among the actors that also fit, the choice maximises in this order their
    GPUs, the smaller of the two jobs' numbers of cores, the actors' cores, and their number. Unless both jobs take
    GPUs, workers get fewer cores if the choice becomes better by that.

    Args:
        nodes: the CPUs and GPUs of the nodes of the cluster.
        train: the request for workers; their number is a single one, not a range.
        couple: the request for actors.
        blocks: the number of blocks of the coupling job, which limits the useful actors.

    Raises:
        InputError: the cluster cannot hold what is requested.
    """
    try:
        workers, gpus = fit_workers(nodes, train, couple), gpus_per_actor(nodes, couple)
    except InputError as error:
        raise InputError(f"train.{error}") from error
    assert isinstance(workers.workers, int)
    count, team = workers.workers, couple.actors_per_block
    most = max(1, blocks) * team if couple.actors == "auto" else couple.actors
    least = 1 if couple.cpus_per_actor == "auto" else couple.cpus_per_actor
    largest = max(cpu for cpu, _ in nodes) if couple.cpus_per_actor == "auto" else least
    fewest = workers.cpus if train.cpus != "auto" or (workers.gpus and gpus) else 1
    total = sum(cpu for cpu, _ in nodes), sum(gpu for _, gpu in nodes)

    def value(actors: int, cpus: int, shape: WorkerShape) -> Value:
        return actors * gpus, min(actors * cpus, count * shape.cpus), actors * cpus, actors

    best: tuple[Value, WorkerShape, ActorShape] | None = None
    for each in range(workers.cpus, fewest - 1, -1):
        shape = WorkerShape(count, each, workers.gpus)
        left = total[0] - count * each, total[1] - count * workers.gpus
        for cpus in range(least, largest + 1):
            limit = min(most, _room(left, (cpus, gpus)))  # a bound: as if all were one node
            if best and value(limit, cpus, shape) <= best[0]:
                continue
            actors = room_for_actors(nodes, shape, (cpus, gpus), limit) // team * team
            found = value(actors, cpus, shape)
            if actors >= (team if couple.actors == "auto" else most) and (best is None or found > best[0]):
                best = found, shape, ActorShape(actors, cpus, gpus)
    if best is None:
        room = room_for_actors(nodes, workers, (least, gpus), most)
        raise InputError(
            f"couple.cluster.actors={couple.actors}, cpus_per_actor={couple.cpus_per_actor}, gpus_per_actor="
            f"{couple.gpus_per_actor}, actors_per_block={team}: only {room} such actors fit beside {count} workers of "
            f"{workers.cpus} CPUs and {workers.gpus} GPUs, whichever are started first, on nodes of (CPUs, GPUs) "
            f"{list(nodes)}; lower them or train.cluster.workers, or give auto"
        )
    return best[1:]


def room_for_actors(nodes: Sequence[Node], workers: WorkerShape, actor: Node, most: int) -> int:
    """Count the actors that fit wherever the workers are, and leave room for the workers wherever the actors are.

    Args:
        nodes: the CPUs and GPUs of the nodes; the workers alone fit on them.
        workers: the workers that share the cluster.
        actor: the CPUs and GPUs of one actor.
        most: the largest count of interest.
    """
    assert isinstance(workers.workers, int)
    worker, count = (workers.cpus, float(workers.gpus)), workers.workers
    beside_workers = _least_room(nodes, worker, count, actor)[count]
    beside_actors = _least_room(nodes, actor, most, worker)
    return min(int(beside_workers), int(np.flatnonzero(beside_actors >= count)[-1]), most)


def _least_room(nodes: Sequence[Node], first: Node, most: int, second: Node) -> Float64[np.ndarray, " k"]:
    """Count how many of size `second` fit in the worst case next to k of size `first`, for k = 0, ..., `most`.

    The count is the minimum over all ways to put the k on the nodes, computed node by node; -1 if k do not fit.
    """
    least = np.where(np.arange(most + 1) == 0, 0.0, np.inf)
    for cpus, gpus in nodes:
        after = np.full(most + 1, np.inf)
        for k in range(min(most, _room((cpus, gpus), first)) + 1):
            left = cpus - k * first[0], gpus - k * first[1]
            after[k:] = np.minimum(after[k:], least[: most + 1 - k] + _room(left, second))
        least = after
    return np.where(np.isinf(least), -1.0, least)


def _room(node: Node, size: Node) -> int:
    """Count how many of a size fit on one node."""
    by_cpus = int(node[0] // size[0])
    return min(by_cpus, math.floor(node[1] / size[1] + 1e-9)) if size[1] else by_cpus

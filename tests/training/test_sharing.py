"""A cluster for train workers and coupling actors: by whom its nodes are taken first makes no difference."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig
from flowpairs.training.run.sharing import room_for_actors, share_nodes
from flowpairs.training.run.workers import Node, WorkerShape, fit_workers

CLUSTERS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2).map(float)), min_size=1, max_size=3
)  # by CPUs and GPUs


def placed(nodes: Sequence[Node], size: Node, count: int) -> Iterator[list[Node]]:
    """What is left of the nodes, for every way to put so many of a size on them."""
    if not nodes:
        if not count:
            yield []
        return
    (cpus, gpus), k = nodes[0], 0
    while k <= count and cpus - k * size[0] >= 0 and gpus - k * size[1] >= 0:
        for rest in placed(nodes[1:], size, count - k):
            yield [(cpus - k * size[0], gpus - k * size[1]), *rest]
        k += 1


def fits(nodes: Sequence[Node], size: Node, count: int) -> bool:
    return next(placed(nodes, size, count), None) is not None


def both_fit(nodes: Sequence[Node], a: Node, a_count: int, b: Node, b_count: int) -> bool:
    """Whether one kind finds room wherever the other is, whichever that is."""
    return all(fits(left, b, b_count) for left in placed(nodes, a, a_count)) and all(
        fits(left, a, a_count) for left in placed(nodes, b, b_count)
    )


@given(
    CLUSTERS,
    st.tuples(st.integers(1, 3), st.integers(0, 1)),
    st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0])),
    st.integers(1, 4),
)
def test_as_many_actors_as_fit_whichever_are_first(
    nodes: list[Node], worker: tuple[int, int], actor: Node, workers: int
) -> None:
    """All ways to put them there are tried."""
    if not fits(nodes, worker, workers):
        return
    found = room_for_actors(nodes, WorkerShape(workers, *worker), actor, 6)
    assert both_fit(nodes, worker, workers, actor, found)
    assert found == 6 or not fits(nodes, actor, found + 1) or not both_fit(nodes, worker, workers, actor, found + 1)


@given(
    CLUSTERS,
    st.sampled_from(["auto", 1, 2]),
    st.sampled_from(["auto", 0, 1]),
    st.sampled_from(["auto", 0, 0.5, 1]),
    st.sampled_from(["auto", 1, 2]),
    st.integers(1, 8),
)
def test_what_is_shared_fits_or_is_refused(nodes, workers, gpus, per_actor, actors, blocks) -> None:
    train = TrainClusterConfig(workers=workers, gpus=gpus)
    couple = ClusterConfig(actors=actors, gpus_per_actor=per_actor)
    try:
        ours, theirs = share_nodes(nodes, train, couple, blocks)
    except InputError:
        return
    assert theirs.actors == actors if actors != "auto" else 1 <= theirs.actors <= blocks
    assert workers in ("auto", ours.workers)
    assert both_fit(nodes, (ours.cpus, ours.gpus), ours.workers, (theirs.cpus, theirs.gpus), theirs.actors)
    # The two jobs, which know nothing of each other, find their workers and actors in these numbers.
    alone = TrainClusterConfig(workers=ours.workers, gpus=ours.gpus, cpus=ours.cpus)
    assert fit_workers(nodes, alone) == ours


@pytest.mark.parametrize(
    ("nodes", "train", "couple", "blocks", "workers", "actors"),
    [
        # Half of the cores each; as many actors as there are cores for, or blocks.
        ([(2, 0.0)], {}, {}, 64, (1, 1, 0), (1, 1, 0.0)),
        ([(64, 0.0)], {}, {}, 64, (1, 32, 0), (32, 1, 0.0)),
        ([(64, 0.0)], {}, {}, 4, (1, 32, 0), (4, 8, 0.0)),
        ([(64, 0.0)], {"cpus": 16}, {}, 4, (1, 16, 0), (4, 12, 0.0)),
        ([(64, 0.0)], {}, {"actors_per_block": 8}, 1, (1, 32, 0), (8, 4, 0.0)),
        # Of several nodes an actor takes the same part as a worker; one-core nodes are shared out.
        ([(8, 0.0)] * 2, {}, {}, 64, (2, 4, 0), (2, 4, 0.0)),
        ([(1, 0.0)] * 2, {}, {}, 64, (1, 1, 0), (1, 1, 0.0)),
        # Half of the GPUs each, or all but those that couplings ask for; cores go with the GPUs.
        ([(18, 4.0)], {}, {}, 64, (2, 4, 1), (2, 5, 1.0)),
        ([(18, 4.0)], {}, {"actors": 1}, 64, (3, 4, 1), (1, 6, 1.0)),
        ([(18, 4.0)] * 4, {}, {}, 64, (8, 4, 1), (8, 4, 1.0)),
        # Or all of them, where couplings take cores alone; of several nodes, one actor has more than half of each.
        ([(18, 4.0)], {}, {"gpus_per_actor": 0}, 64, (4, 2, 1), (10, 1, 0.0)),
        ([(96, 8.0)] * 2, {}, {"gpus_per_actor": 0}, 64, (16, 5, 1), (2, 56, 0.0)),
    ],
)
def test_who_gets_what(nodes, train, couple, blocks, workers, actors) -> None:
    found = share_nodes(nodes, TrainClusterConfig(**train), ClusterConfig(**couple), blocks)
    assert found == (WorkerShape(*workers), ActorShape(*actors))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"train.cluster.workers=2.*only 1 such workers fit beside couplings"):
        share_nodes([(2, 0.0)], TrainClusterConfig(workers=2), ClusterConfig(), 8)
    with pytest.raises(InputError, match=r"couple.cluster.actors=3.*only 2 such actors fit beside 2 workers of 2 CPUs"):
        share_nodes([(4, 0.0)] * 2, TrainClusterConfig(workers=2), ClusterConfig(actors=3, cpus_per_actor=2), 8)

"""Which pairs an order reads."""

from flowpairs.training.pairs.order import Order


def pairs_of(order: Order, epoch: int, lane: int, start: int, stop: int) -> list[tuple[int, int]]:
    return [
        (stretch.shard, row)
        for stretch in order.stretches(epoch, lane, start, stop)
        for row in range(stretch.start, stretch.stop)
    ]

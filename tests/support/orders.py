"""Which pairs an order reads."""

from flowpairs.training.pairs.reading.order import Order


def pairs_of(order: Order, epoch: int, arc: int, start: int, stop: int) -> list[tuple[int, int]]:
    return [
        (stretch.shard, row)
        for stretch in order.stretches(epoch, arc, start, stop)
        for row in range(stretch.start, stretch.stop)
    ]

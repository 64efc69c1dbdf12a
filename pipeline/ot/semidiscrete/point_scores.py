"""What a pass of source points needs of their scores with the targets, however these are computed."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.entry_buffer import Found
from flowpairs.pipeline.ot.tiles.tiling import Workers


class Given(NamedTuple):
    """What points gave to the targets; a process fills in only its own targets."""

    masses: Float[Tensor, " N"]  # sum of the probabilities, float64
    squares: Float[Tensor, " N"]  # sum of the squared probabilities of the entries, float64
    hits: Float[Tensor, " N"] | Int[Tensor, " N"]  # points whose largest score it has


@runtime_checkable
class Scores(Protocol):
    """The scores of batches of points with this process's targets, each seen twice.

    First every part of the targets says what its largest score and sum are. Once members have exchanged these, all know
    the log-sum of each point, and probabilities are counted.

    Attributes:
        batch: number of points of a batch, which does not depend on the members.
        sections: the section of each part of this process's targets, rising.
    """

    batch: int
    sections: list[int]

    def first_look(
        self, points: Float[Tensor, "r d"], prepare: Callable[[], None], workers: Workers
    ) -> tuple[Float64[Tensor, "parts r"], Float64[Tensor, "parts r"]]:
        """Return each part's largest score of each point, and sum of 2^(score - largest).

        Args:
            points: the points.
            prepare: what to do beside it.
            workers: the threads.
        """

    def second_look(
        self, phi: Float64[Tensor, " r"], won: Bool[Tensor, "parts r"], start: int, workers: Workers
    ) -> Iterator[Found]:
        """Count what these points give, and yield entries; those of a target come in the order of their points.

        Args:
            phi: log2 of the points' sums over all targets.
            won: in which part the largest score of all is, one at most.
            start: number of the first point in the pass.
            workers: the threads.
        """

    def given(self) -> Given:
        """Return what all points so far gave."""

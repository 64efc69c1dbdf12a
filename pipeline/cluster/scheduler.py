"""A crew of actors that works through blocks, and goes on when one of them dies."""

from collections import Counter, deque
from collections.abc import Generator, Sequence
from threading import Event
from typing import Any, Protocol, runtime_checkable

import ray
from ray.exceptions import RayActorError, RayTaskError

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.progress import LOOK_EVERY

DEATHS = 3  # a block that takes this many actors with it is given up


@runtime_checkable
class Hiring(Protocol):
    """Where actors come from and go to; one has a method `solve(block)` that keeps what it found, and a method
    `write()` that writes what was kept first and returns its report.
    """

    def hire(self) -> Any:
        """A new actor."""

    def dismiss(self, actor: Any) -> None:
        """End an actor, dead or alive."""


def work(
    posts: Hiring, size: int, stages: Sequence[Sequence[int]], stop: Event | None = None
) -> Generator[dict[str, Any], None, None]:
    """Yield the report of every block, as they are finished; closing it dismisses the actors.

    An actor solves a block while it still writes the one before. A dead actor, or one on a dead node, is replaced and
    what it had in hand is done again. This is done here rather than by Ray's restarts, so that a block which kills its
    actors (out of memory) ends the job with a sentence.

    Args:
        posts: where actors are hired.
        size: how many of them work at a time.
        stages: block numbers; a stage begins when the one before is on disk.
        stop: set by another thread to end the work.

    Raises:
        InputError, JobError: as a block raised it.
        JobError: a block killed `DEATHS` actors, or the work was stopped.
    """
    waiting, coming, deaths = deque[int](), deque(stages), Counter[int]()
    solving: dict[ray.ObjectRef, tuple[Any, int]] = {}
    writing: dict[ray.ObjectRef, tuple[Any, int]] = {}
    idle: list[Any] = []

    def has(actor: Any, tasks: dict[ray.ObjectRef, tuple[Any, int]]) -> bool:
        return any(actor is other for other, _ in tasks.values())

    def employ(actor: Any) -> None:
        if has(actor, solving):
            return
        if waiting:
            block = waiting.popleft()
            solving[actor.solve.remote(block)] = actor, block
        elif coming:
            idle.append(actor)
        elif not has(actor, writing):
            posts.dismiss(actor)

    def lay_off(actor: Any) -> list[int]:
        """Take back the blocks that an actor has in hand, the one that it worked on first."""
        posts.dismiss(actor)
        lost = []
        for tasks in (solving, writing):
            for ref in [ref for ref, (other, _) in tasks.items() if other is actor]:
                lost.append(tasks.pop(ref)[1])
        return lost

    try:
        while coming or solving or writing:
            if not (solving or writing):
                waiting.extend(coming.popleft())
                idle += [posts.hire() for _ in range(min(size, len(waiting)) - len(idle))]
                while idle:
                    employ(idle.pop())
                continue
            some, _ = ray.wait([*solving, *writing], num_returns=1, timeout=LOOK_EVERY if stop else None)
            if stop and stop.is_set():
                raise JobError("stopped before all blocks were done; run the same command again to go on")
            if not some:
                continue
            (ready,) = some
            actor, block = solving[ready] if ready in solving else writing[ready]
            try:
                report = ray.get(ready)
            except RayActorError as error:
                lost = lay_off(actor)
                deaths[lost[0]] += 1
                if deaths[lost[0]] == DEATHS:
                    raise JobError(
                        f"block {lost[0]} killed {DEATHS} actors ({' '.join(str(error).split())}); finished blocks are "
                        "kept: lower coupling.n or give the actors more memory, then run the same command again"
                    ) from error
                waiting.extendleft(lost)
                employ(posts.hire())
                continue
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, InputError | JobError) else error) from None
            if ready in solving:
                del solving[ready]
                writing[actor.write.remote()] = actor, block
                employ(actor)
                continue
            del writing[ready]
            employ(actor)
            yield report
    finally:
        for actor in {*idle, *(actor for actor, _ in [*solving.values(), *writing.values()])}:
            posts.dismiss(actor)

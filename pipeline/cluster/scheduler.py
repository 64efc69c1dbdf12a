"""The scheduler: gives blocks to actors, and continues when one of them dies."""

import sys
from collections import Counter, deque
from collections.abc import Generator, Sequence
from typing import Any, Protocol, runtime_checkable

import ray
from ray.exceptions import RayActorError, RayTaskError

from flowpairs.pipeline.base.errors import InputError, JobError

MAX_DEATHS = 3  # a job ends when one block has killed this many actors, or this many died while they started
REPORT_EVERY = 60.0  # seconds of silence after which a wait is reported


@runtime_checkable
class Pool(Protocol):
    """The protocol of what starts and stops actors.

    An actor has the methods `ready()`, which returns once it is placed, `solve(number)`, which keeps its result, and
    `write()`, which writes the oldest kept result and returns its report.
    """

    size: int  # number of actors that work at a time

    def start(self) -> Any:
        """Start an actor."""

    def stop(self, actor: Any) -> None:
        """End an actor, dead or alive."""


def schedule(pool: Pool, numbers: Sequence[int]) -> Generator[dict[str, Any], None, None]:
    """Yield the report of each block as it is finished; closing the generator stops the actors.

    Work is given only to actors that answered. An actor solves a block while it still writes the previous one. A dead
    actor, or one on a dead node, is replaced and its work is done again. This is done here rather than by Ray's
    restarts, so that a block which kills its actors (out of memory) ends the job with a sentence.

    Args:
        pool: starts and stops actors.
        numbers: numbers of the blocks.

    Raises:
        InputError, JobError: raised by a block or by the start of an actor.
        JobError: a block killed `MAX_DEATHS` actors, or as many died while they started.
    """
    return _Schedule(pool, numbers).reports()


class _Schedule:
    """The state of `schedule`: the blocks that wait, and each actor's tasks by the references of their results."""

    def __init__(self, pool: Pool, numbers: Sequence[int]) -> None:
        self.pool, self.waiting = pool, deque(numbers)
        self.starting: dict[ray.ObjectRef, Any] = {}
        self.solving: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self.writing: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self.deaths, self.failed_starts = Counter[int](), 0

    def reports(self) -> Generator[dict[str, Any], None, None]:
        """See `schedule`."""
        try:
            for _ in range(min(self.pool.size, len(self.waiting))):
                self._start()
            while self.waiting or self.solving or self.writing:
                refs = [*self.starting, *self.solving, *self.writing]
                done, _ = ray.wait(refs, num_returns=1, timeout=REPORT_EVERY)
                if not done:
                    self._say_what_is_waited_for()
                    continue
                report = self._take(done[0])
                if report is not None:
                    yield report
        finally:
            busy = [actor for actor, _ in (*self.solving.values(), *self.writing.values())]
            for actor in {*self.starting.values(), *busy}:
                self.pool.stop(actor)

    def _take(self, ref: ray.ObjectRef) -> dict[str, Any] | None:
        """Handle a result; return the report where it is that of a written block."""
        try:
            result = ray.get(ref)
        except RayActorError as error:
            self._replace(ref, error)
            return None
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, InputError | JobError) else error) from None
        if ref in self.starting:
            self._assign(self.starting.pop(ref))
        elif ref in self.solving:
            actor, number = self.solving.pop(ref)
            self.writing[actor.write.remote()] = actor, number
            self._assign(actor)
        else:
            actor, _ = self.writing.pop(ref)
            self._assign(actor)
            return result
        return None

    def _start(self) -> None:
        actor = self.pool.start()
        self.starting[actor.ready.remote()] = actor

    def _assign(self, actor: Any) -> None:
        """Give an actor the next block if it is solving none; stop it if it has nothing left to do."""
        if any(actor is other for other, _ in self.solving.values()):
            return
        if self.waiting:
            number = self.waiting.popleft()
            self.solving[actor.solve.remote(number)] = actor, number
        elif not any(actor is other for other, _ in self.writing.values()):
            self.pool.stop(actor)

    def _replace(self, ref: ray.ObjectRef, error: RayActorError) -> None:
        """Take back the work of a dead actor, and start another actor."""
        if ref in self.starting:
            self.pool.stop(self.starting.pop(ref))
            if not error.preempted:
                self.failed_starts += 1
            if self.failed_starts == MAX_DEATHS:
                reason = " ".join(str(error).split())
                raise JobError(
                    f"{MAX_DEATHS} actors died while they started ({reason}); finished blocks are kept: mend the "
                    "cause, then run the same command again"
                ) from error
        else:
            actor, blamed = self.solving[ref] if ref in self.solving else self.writing[ref]
            self.pool.stop(actor)
            lost = []
            for tasks in (self.writing, self.solving):
                for other in [other for other, (owner, _) in tasks.items() if owner is actor]:
                    lost.append(tasks.pop(other)[1])
            self.waiting.extendleft(reversed(lost))
            if not error.preempted:
                self.deaths[blamed] += 1
            if self.deaths[blamed] == MAX_DEATHS:
                raise JobError(
                    f"block {blamed} killed {MAX_DEATHS} actors ({' '.join(str(error).split())}); finished blocks are "
                    "kept: lower coupling.n or give the actors more memory, then run the same command again"
                ) from error
        self._start()

    def _say_what_is_waited_for(self) -> None:
        if not (self.solving or self.writing):
            print(
                f"waiting for nodes: {len(self.starting)} actors asked for, none is placed yet",
                file=sys.stderr,
                flush=True,
            )

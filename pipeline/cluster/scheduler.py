"""The scheduler: gives blocks to actors, and continues when one of them dies."""

import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import ray
from ray.exceptions import RayActorError, RayTaskError

from flowpairs.pipeline.base.errors import InputError, JobError

MAX_DEATHS = 3  # a job ends when one block has killed this many actors, or this many died while they started
REPORT_EVERY = 60.0  # seconds of silence after which a wait is reported
LOOK_EVERY = 5.0  # seconds of silence after which the nodes are looked at


@dataclass(frozen=True)
class Loss:
    """The death of an actor, as far as its caller heard of it.

    Attributes:
        reason: what Ray says of it.
        preempted: whether its node was taken away, which says nothing of its work.
    """

    reason: str
    preempted: bool = False


def own_error(error: RayTaskError) -> Exception:
    """Unwrap the sentence for the user that a task or an actor raised; any other error stays as Ray wrapped it."""
    return error.cause if isinstance(error.cause, InputError | JobError) else error


@runtime_checkable
class Pool(Protocol):
    """The protocol of what starts and stops actors.

    An actor has the methods `ready()`, which returns once it is placed, `solve(number, ahead=None)`, which keeps its
    result, and `write()`, which writes the oldest kept result and returns its report.
    """

    size: int  # number of actors that work at a time
    ahead: bool  # whether `solve` is told the number that comes next

    def start(self) -> Any:
        """Start an actor."""

    def stop(self, actor: Any) -> None:
        """End an actor, dead or alive."""

    def watch(self, actor: Any) -> ray.ObjectRef | None:
        """Refer to a `Loss` that comes when an actor's helper dies, or an error of its; None where it has none."""

    def fits(self, actor: Any) -> bool:
        """Return whether an actor that has not answered yet can be placed on the nodes that are there now."""


def schedule(pool: Pool, numbers: Sequence[int]) -> Generator[dict[str, Any], None, None]:
    """Yield the report of each block as it is finished; closing the generator stops the actors.

    Work is given only to actors that answered. An actor solves a block while it still writes the previous one. A dead
    actor, or one on a dead node, is replaced and its work is done again; one that no node can hold any more is asked
    for anew, in the shape that the nodes allow. This is done here rather than by Ray's restarts, so that a block which
    kills its actors (out of memory) ends the job with a sentence.

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
        self.watching: dict[ray.ObjectRef, Any] = {}
        self.solving: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self.writing: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self.told: dict[Any, int] = {}  # the block that an actor was told to be its next
        self.deaths, self.failed_starts = Counter[int](), 0

    def reports(self) -> Generator[dict[str, Any], None, None]:
        """See `schedule`."""
        try:
            for _ in range(min(self.pool.size, len(self.waiting))):
                self._start()
            heard = time.monotonic()
            while self.waiting or self.solving or self.writing:
                refs = [*self.watching, *self.starting, *self.solving, *self.writing]
                done, _ = ray.wait(refs, num_returns=1, timeout=LOOK_EVERY)
                if not done:
                    self._ask_again()
                    if time.monotonic() - heard >= REPORT_EVERY:
                        self._say_what_is_waited_for()
                        heard = time.monotonic()
                    continue
                heard = time.monotonic()
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
            actor = self._owner(ref)
            if ref not in self.watching:
                self._replace(actor, self._blamed(ref), Loss(" ".join(str(error).split()), error.preempted))
            else:
                del self.watching[ref]  # its other tasks say the same
            return None
        except RayTaskError as error:
            raise own_error(error) from None
        if ref in self.watching:
            self._replace(self.watching[ref], None, result)
        elif ref in self.starting:
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
        watch = self.pool.watch(actor)
        if watch is not None:
            self.watching[watch] = actor

    def _ask_again(self) -> None:
        """Ask anew for actors that wait for nodes which are gone."""
        for ref, actor in list(self.starting.items()):
            if not self.pool.fits(actor):
                del self.starting[ref]
                self._stop(actor)
                self._start()

    def _stop(self, actor: Any) -> None:
        self.watching = {ref: other for ref, other in self.watching.items() if other is not actor}
        self.pool.stop(actor)

    def _assign(self, actor: Any) -> None:
        """Give an actor the next block if it is solving none; stop it if it has nothing left to do."""
        if any(actor is other for other, _ in self.solving.values()):
            return
        number = self._next_of(actor)
        if number is not None:
            if self.pool.ahead and self.waiting:
                self.told[actor] = self.waiting.popleft()
            self.solving[actor.solve.remote(number, self.told.get(actor))] = actor, number
        elif not any(actor is other for other, _ in self.writing.values()):
            self._stop(actor)

    def _next_of(self, actor: Any) -> int | None:
        """Take the block that an actor was told of, one that waits, or at last one that another was told of."""
        if actor not in self.told and self.waiting:
            return self.waiting.popleft()
        return self.told.pop(actor if actor in self.told else next(iter(self.told), None), None)

    def _owner(self, ref: ray.ObjectRef) -> Any:
        """Find the actor of a task."""
        if ref in self.watching or ref in self.starting:
            return self.watching.get(ref) or self.starting[ref]
        return (self.solving.get(ref) or self.writing[ref])[0]

    def _blamed(self, ref: ray.ObjectRef) -> int | None:
        """Find the block that an actor worked on, by the task that its death ended; None for its start."""
        return None if ref in self.starting else (self.solving.get(ref) or self.writing[ref])[1]

    def _replace(self, actor: Any, blamed: int | None, loss: Loss) -> None:
        """Take back the work of an actor that is lost, and start another one.

        Args:
            actor: the actor, dead or alive.
            blamed: block that its death is counted for; None: the one that it solves, or its start.
            loss: how it was lost.
        """
        self._stop(actor)
        starting = [ref for ref, other in self.starting.items() if other is actor]
        for ref in starting:
            del self.starting[ref]
        lost = []
        for tasks in (self.writing, self.solving):
            for other in [other for other, (owner, _) in tasks.items() if owner is actor]:
                lost.append(tasks.pop(other)[1])
        if actor in self.told:
            self.waiting.appendleft(self.told.pop(actor))
        self.waiting.extendleft(reversed(lost))
        if blamed is None and lost and not starting:
            blamed = lost[-1]
        if not loss.preempted:
            self._count(blamed, loss.reason)
        self._start()

    def _count(self, blamed: int | None, reason: str) -> None:
        """Count a death; end the job when there were too many of one kind."""
        kept = "finished blocks are kept"
        if blamed is None:
            self.failed_starts += 1
            if self.failed_starts == MAX_DEATHS:
                raise JobError(
                    f"{MAX_DEATHS} actors died while they started ({reason}); {kept}: mend the cause, then run the "
                    "same command again"
                )
            return
        self.deaths[blamed] += 1
        if self.deaths[blamed] == MAX_DEATHS:
            raise JobError(
                f"block {blamed} killed {MAX_DEATHS} actors ({reason}); {kept}: lower coupling.n or give the actors "
                "more memory, then run the same command again"
            )

    def _say_what_is_waited_for(self) -> None:
        if not (self.solving or self.writing):
            print(
                f"waiting for nodes: {len(self.starting)} actors asked for, none is placed yet",
                file=sys.stderr,
                flush=True,
            )

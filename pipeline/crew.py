"""A crew of actors that works through blocks, and goes on when one of them dies."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.errors import InputError, JobError

DEATHS = 3  # a block that takes this many actors with it is given up


def work(hire: Callable[[], Any], size: int, todo: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the report of every block, as they are finished.

    A dead actor, or one on a dead node, is replaced and its block done again. This is done here rather than by Ray's
    restarts, so that a block which kills its actors (out of memory) ends the job with a sentence.

    Args:
        hire: makes an actor with a method `couple(block)`.
        size: how many actors work at a time.
        todo: block numbers.

    Raises:
        InputError, JobError: as a block raised it.
        JobError: a block killed `DEATHS` actors.
    """
    waiting, deaths = deque(todo), Counter[int]()
    busy: dict[ray.ObjectRef, tuple[Any, int]] = {}

    def employ(actor: Any) -> None:
        if waiting:
            block = waiting.popleft()
            busy[actor.couple.remote(block)] = actor, block
        else:
            ray.kill(actor)

    try:
        for _ in range(min(size, len(todo))):
            employ(hire())
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            actor, block = busy.pop(ready)
            try:
                report = ray.get(ready)
            except RayActorError as error:
                deaths[block] += 1
                if deaths[block] == DEATHS:
                    raise JobError(
                        f"block {block} killed {DEATHS} actors ({' '.join(str(error).split())}); finished blocks are "
                        "kept: lower coupling.n or give the actors more memory, then run the same command again"
                    ) from error
                waiting.appendleft(block)
                employ(hire())
                continue
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, InputError | JobError) else error) from None
            employ(actor)
            yield report
    finally:
        for actor, _ in busy.values():
            ray.kill(actor)

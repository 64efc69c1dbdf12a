"""Sources of the shards of a store, which is complete, or grows while its coupling job still runs."""

import threading
import time
from collections import Counter
from typing import Protocol, runtime_checkable

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.progress import LOOK_EVERY
from flowpairs.pipeline.store.format import Index, Outline, Shard, read_sidecar, shard_name, sidecar_path


@runtime_checkable
class ShardSource(Protocol):
    """A source of shards by number."""

    def there(self, number: int) -> bool:
        """Return whether a shard is available without waiting."""

    def take(self, number: int) -> Shard:
        """Return a shard, after waiting for it if it is not available yet."""


class CompleteStore:
    """The shards of a complete store."""

    def __init__(self, index: Index) -> None:
        self._shards = index.shards

    def there(self, number: int) -> bool:
        """Return True: every shard is available."""
        return True

    def take(self, number: int) -> Shard:
        """Return a shard at once."""
        return self._shards[number]


class GrowingStore:
    """The shards of a store that is still being written; a shard is available as soon as its sidecar exists.

    Args:
        directory: the directory or URL of the pair store.
        patience: the seconds to wait for a shard.
        stop: an event that ends all waiting.
    """

    def __init__(self, directory: AnyPath, patience: float, stop: threading.Event) -> None:
        self._directory, self._patience, self._stop = directory, patience, stop
        self._found: dict[int, Shard] = {}
        self._looked: dict[int, float] = {}  # last check of each missing shard; a check may cost a round trip

    def there(self, number: int) -> bool:
        """Return whether the shard has its sidecar; the answer may be LOOK_EVERY seconds old."""
        if number in self._found:
            return True
        now = time.monotonic()
        if now - self._looked.get(number, -LOOK_EVERY) < LOOK_EVERY:
            return False
        path = sidecar_path(self._directory, shard_name(number))
        if not path.is_file():
            self._looked[number] = now
            return False
        self._found[number] = read_sidecar(path).shard
        return True

    def take(self, number: int) -> Shard:
        """See `ShardSource.take`.

        Raises:
            InputError: the shard did not appear within `patience` seconds.
        """
        began = time.monotonic()
        while not self.there(number):
            if time.monotonic() - began > self._patience:
                raise InputError(
                    f"pairs=stream:{self._directory}: {shard_name(number)} did not come in {self._patience:g} s; start "
                    "the coupling job again, then this one, or raise pairs.patience"
                )
            if self._stop.wait(LOOK_EVERY):
                raise TimeoutError("nobody waits any more")
        return self._found[number]


def shard_groups(outline: Outline) -> list[int]:
    """Count the shards that appear together: those of one block or, for a chain over time, of one block per leg."""
    legs = max(1, len(outline.index.times) - 1)
    return list(Counter(block // legs for block, _ in outline.shards).values())

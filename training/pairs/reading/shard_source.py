"""Where the shards of a store are taken from: all are there, or they come while their coupling job still runs."""

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
    """Shards by their number."""

    def there(self, number: int) -> bool:
        """Whether a shard can be had without waiting."""

    def take(self, number: int) -> Shard:
        """A shard, waited for where it is not there yet."""


class CompleteStore:
    """All shards of a complete store."""

    def __init__(self, index: Index) -> None:
        self._shards = index.shards

    def there(self, number: int) -> bool:
        """Always."""
        return True

    def take(self, number: int) -> Shard:
        """At once."""
        return self._shards[number]


class GrowingStore:
    """Shards as their sidecars come.

    Args:
        directory: of the pair store.
        patience: seconds to wait for a shard.
        stop: set when nobody waits any more.
    """

    def __init__(self, directory: AnyPath, patience: float, stop: threading.Event) -> None:
        self._directory, self._patience, self._stop = directory, patience, stop
        self._found: dict[int, Shard] = {}
        self._looked: dict[int, float] = {}  # when, for shards that were not there; a look may cost a round trip

    def there(self, number: int) -> bool:
        """Whether the shard has its sidecar, as of half a second ago."""
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
            InputError: it does not come.
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
    """How many shards of a store come together: those of a block or, of a chain over time, of a block of every leg."""
    legs = max(1, len(outline.index.times) - 1)
    return list(Counter(block // legs for block, _ in outline.shards).values())

"""Writing of one shard: a tar that is either complete under its final name or not there at all.

The tar is written under a temporary name, hashed on the way, synced and renamed; its sidecar follows in the same
manner. webdataset's own `ShardWriter` would leave a valid but short tar under the final name when the process dies.
"""

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from flowpairs.pipeline.base.atomic import HashingFile, atomic_open
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Record, encode_record


class ShardWriter:
    """Writes one shard as a context manager; leaving it by an exception leaves no file.

    Args:
        directory: the pair store.
        number: number of the shard.
        block: block that its pairs come from.
        payload: what a record holds; see pipeline/store/records.py.
    """

    def __init__(self, directory: AnyPath, number: int, block: int, payload: str = "full") -> None:
        self.directory, self.block, self.payload = directory, block, payload
        self.path = directory / "shards" / format.shard_name(number)
        self.records = self.pairs = 0
        self.id_range: tuple[int, int] | None = None

    def __enter__(self) -> "ShardWriter":
        from webdataset import TarWriter

        self.stack = ExitStack()
        self.file = self.stack.enter_context(atomic_open(self.path))
        self.hashing = HashingFile(self.file)
        # A fixed time and no compression: the same pairs give the same bytes.
        self.tar = TarWriter(self.hashing, user="flowpairs", group="flowpairs", encoder=False, mtime=0, compress=False)
        return self

    def write(self, record: Record) -> None:
        """Append one record."""
        fields = encode_record(record, self.payload, self.block)
        self.tar.write({"__key__": format.record_key(self.block, record.first_row), **fields})
        low, high = int(record.data_ids.min()), int(record.data_ids.max())
        self.id_range = (min(low, self.id_range[0]), max(high, self.id_range[1])) if self.id_range else (low, high)
        self.records += 1
        self.pairs += len(record.data_ids)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self.stack:
            if error is not None:
                with suppress(OSError):  # what tarfile still wants to write is thrown away
                    self.tar.close()
                raise error
            self.tar.close()

    def sidecar(self, first_noise_counter: int | None, report: dict[str, Any]) -> format.Sidecar:
        """Build the sidecar of the closed shard."""
        assert self.file.closed
        assert self.id_range is not None, "a shard is never empty"
        shard = format.Shard(
            name=self.path.name,
            block=self.block,
            pairs=self.pairs,
            records=self.records,
            bytes=self.hashing.bytes,
            sha256=self.hashing.sha256.hexdigest(),
        )
        return format.Sidecar(shard, first_noise_counter, self.id_range, report)


def write_shard(
    directory: AnyPath,
    number: int,
    block: int,
    records: Iterable[Record],
    first_noise_counter: int | None,
    report: dict[str, Any],
    payload: str = "full",
) -> format.Sidecar:
    """Write one shard and its sidecar; both are on disk when this returns."""
    with ShardWriter(directory, number, block, payload) as writer:
        for record in records:
            writer.write(record)
    sidecar = writer.sidecar(first_noise_counter, report)
    format.write_sidecar(directory, sidecar)
    return sidecar

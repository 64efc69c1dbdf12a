"""Whether a shard's file is the one that the index recorded; whoever reads pairs asks this first."""

import hashlib

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.store.format import Shard


def damage(directory: AnyPath, shard: Shard, *, content: bool = True) -> str | None:
    """What is wrong with a shard, to be put behind its name; None where nothing is.

    Args:
        directory: the pair store.
        shard: as the index or the sidecar has it.
        content: hash the file. Its size alone tells what a killed process leaves behind, in no time.
    """
    path = directory / "shards" / shard.name
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes, the index says {shard.bytes}"
    if content:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return "has another SHA-256 than the index says"
    return None

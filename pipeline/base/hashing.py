"""A file that is hashed while it is written."""

import hashlib
from typing import BinaryIO


class HashingFile:
    """A file that counts and hashes the bytes that pass through.

    Args:
        file: file to write to; None only hashes.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash bytes."""
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data) if self.file is None else self.file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        if self.file is not None:
            self.file.flush()

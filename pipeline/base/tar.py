"""Safe reading of tars that others wrote: names are only compared, never used as paths; sizes are checked."""

import os
import tarfile
from collections.abc import Iterator
from typing import Any


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, in order, each of which can be read without harm.

    Args:
        tar: tar that is open on a seekable file.

    Raises:
        tarfile.TarError: a negative size, which makes tarfile loop (CVE-2025-8194); one beyond the end of the file, for
        which memory would be reserved; a sparse file, which may be larger than any memory.
    """
    file: Any = tar.fileobj
    file.seek(0, os.SEEK_END)
    end = file.tell()
    for member in tar:
        if member.issparse() or member.size < 0 or (member.isreg() and member.offset_data + member.size > end):
            raise tarfile.ReadError(f"member {member.name!r} is no plain file within the tar")
        yield member

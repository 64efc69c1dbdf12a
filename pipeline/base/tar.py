"""Safe reading of tars that others wrote: names are only compared, never used as paths; sizes are checked."""

import os
import re
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

BLOCK = 512  # bytes; headers and contents start at multiples of it
_OCTAL = re.compile(rb"[0-7]{1,11}[ \0]")
_BYTES = struct.Struct("148B8x356B")  # of a header, but for its checksum

Member = tuple[str, bool, int, int]  # name, whether it is a plain file, offset and size of its content


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


def plain_members(file: Any) -> list[Member] | None:
    """List the members of a tar that holds nothing but plain files with short names, by their headers alone.

    Such are the tars that this project writes, which may be 100,000 in a store; tarfile takes ten times as long.

    Args:
        file: tar, seekable; it is left at its start.

    Returns:
        The members; None where a header is of any other kind, damaged or missing: `members` then says what it is.
    """
    found = _plain_members(file)
    file.seek(0)
    return found


def _plain_members(file: Any) -> list[Member] | None:
    file.seek(0, os.SEEK_END)
    end, offset, out = file.tell(), 0, list[Member]()
    while offset + BLOCK <= end:
        file.seek(offset)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            return out
        checksum, size = _OCTAL.match(header, 148), _OCTAL.match(header, 124)
        if len(header) < BLOCK or not checksum or not size or header[156:157] not in b"0" or header[345:346] != b"\0":
            return None
        if sum(_BYTES.unpack(header)) + 8 * ord(" ") != int(checksum[0][:-1], 8):
            return None
        name, length, start = header[:100].partition(b"\0")[0], int(size[0][:-1], 8), offset + BLOCK
        if not name.isascii() or not name or start + length > end:
            return None
        out.append((name.decode(), True, start, length))
        offset = start + -(-length // BLOCK) * BLOCK
    return None

"""Paths of files: local paths, or fsspec URLs with as much of pathlib's interface as the project uses.

Object stores have no directories and no renames. A directory there is a prefix, made by the first file below it; a file
is complete or absent, since it gets its name when its upload ends (see pipeline/base/atomic.py).
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import fsspec

from flowpairs.pipeline.base.errors import InputError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> the extra that installs its filesystem

LONGEST_NAME = 255  # bytes of the name of a file or directory

CHECK = "check the URL, the network and the credentials in the environment"


class Stat(NamedTuple):
    """Size and time of a remote file, with the names of `os.stat_result`."""

    st_size: int
    st_mtime: float  # seconds since 1970


@dataclass(frozen=True)
class Remote:
    """A file or a directory at an fsspec URL; credentials are the filesystem's own concern."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str | PurePosixPath) -> "Remote":
        return Remote(f"{self.url}/{below}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Scheme and names, from the top."""
        return tuple(part for part in self.url.split("/") if part)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    def with_suffix(self, suffix: str) -> "Remote":
        """Return the same URL with another suffix."""
        return Remote(f"{self.url.rpartition('/')[0]}/{PurePosixPath(self.name).with_suffix(suffix)}")

    def absolute(self) -> "Remote":
        """Return the URL itself, which is always absolute."""
        return self

    resolve = absolute

    def exists(self) -> bool:
        """Return whether there is a file, or any file below."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Return whether there is a file."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Return whether there are files below."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def stat(self) -> Stat:
        """Read the size and the time of the last change."""
        return Stat(self._do("size"), self._do("modified").timestamp())

    def iterdir(self) -> Iterator["Remote"]:
        """Yield the files and directories directly below."""
        for found in self._do("ls", detail=False):
            yield self / found.rstrip("/").rpartition("/")[2]

    def open(self, mode: str = "rb") -> Any:
        """Open for reading bytes."""
        assert mode == "rb", "files are written by `flowpairs.pipeline.base.atomic.atomic_open`"
        return self._do("open", mode)

    def read_bytes(self) -> bytes:
        """Read all bytes."""
        return self._do("cat_file")

    def read_text(self) -> str:
        """Read all text."""
        return self.read_bytes().decode()

    def put(self, file: Path) -> None:
        """Upload the bytes of a local file."""
        self._do("put_file", before=(str(file),))

    def put_bytes(self, data: bytes, *, exclusive: bool = False) -> bool:
        """Write bytes in one upload; return False, and write nothing, where the file had to be new and is not."""
        try:
            self._do("pipe_file", data, mode="create" if exclusive else "overwrite")
        except FileExistsError:
            return False
        return True

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: the first file makes it. A bucket is never made, so that a misspelt one is an error."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if not missing_ok or self.exists():
            self._do("rm_file")

    def _info(self) -> dict[str, Any] | None:
        """Look up what is there; None where nothing is. Other failures raise and never count as nothing."""
        try:
            return self._do("info")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.url}: {error or type(error).__name__}; {CHECK}") from error

    def _do(self, operation: str, *arguments: Any, before: tuple[str, ...] = (), **options: Any) -> Any:
        """Call the process's one instance of the filesystem, without its cache, so that what others write is seen.

        Raises:
            OSError: as for local files.
            InputError: anything else that the filesystem's library raises, such as missing credentials.
        """
        try:
            filesystem, path = fsspec.url_to_fs(self.url, use_listings_cache=False)
            return getattr(filesystem, operation)(*before, path, *arguments, **options)
        except OSError:
            raise
        except Exception as error:  # every cloud's library has its own exceptions
            raise InputError(f"{self.url}: {error}; {CHECK}") from error


AnyPath = Path | Remote


def refuse_special(path: AnyPath) -> None:
    """Refuse a local path that is there and is no plain file, before it is opened: a FIFO waits, a device never ends.

    Raises:
        OSError: it is a FIFO, a device, a socket or a directory.
    """
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(path))


def as_path(where: "str | AnyPath", key: str | None = None) -> AnyPath:
    """Convert a user's text to a path or URL.

    A `file://` URL is a local path like any other, in which %41 is an A, and ? and # are literal, as for
    `pathlib.Path.from_uri`.

    Args:
        where: a local path or a URL.
        key: key of the configuration that holds it, for messages.

    Raises:
        InputError: a scheme that fsspec does not know, one whose package is not installed, or a relative `file://`.
    """
    if isinstance(where, Remote):
        return where
    text = str(where)
    scheme, separator, rest = text.partition("://")
    named = repr(text) if key is None else f"{key}={text!r}"
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")) or "\0" in text:
        raise InputError(f"{named}: no name that a file can have; give a shorter path")
    if isinstance(where, Path):
        return where
    if not separator:
        return Path(where)
    if scheme in ("file", "local"):
        path = Path(os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost"))))
        if not path.is_absolute():
            raise InputError(f"{named}: a file URL holds an absolute path; give file:///PATH, or a path alone")
        return path
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        remedy = f"pip install 'flowpairs[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "install that package"
        raise InputError(f"{named}: {error}; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{named}: {error}; give a path, or a URL as in s3://bucket/pairs") from error
    return Remote(where.rstrip("/"))


def refuse_relative(key: str, value: str) -> None:
    """Refuse, by `InputError`, a path of a submitted job that is neither absolute nor a URL."""
    if "://" not in value and not Path(value).is_absolute():
        raise InputError(
            f"{key}{value!r}: relative, and a submitted job's working directory is thrown away; "
            "give an absolute path on storage that all nodes share, or a URL"
        )

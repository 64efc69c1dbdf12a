"""Where files live: a local path, or an fsspec URL with as much of pathlib's interface as the project uses of it.

Object stores have no directories and no renames. A directory there is a prefix, made by the first file below it; a file
is whole or not there, since it gets its name when its upload ends (see pipeline/base/atomic.py).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import fsspec

from flowpairs.pipeline.base.errors import InputError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> the extra of this project that brings it

CHECK = "check the URL, the network and the credentials in the environment"


class Stat(NamedTuple):
    """What is known of a remote file, in the names of `os.stat_result`."""

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
        """The same with another suffix."""
        return Remote(f"{self.url.rpartition('/')[0]}/{PurePosixPath(self.name).with_suffix(suffix)}")

    def absolute(self) -> "Remote":
        """Itself: a URL is absolute."""
        return self

    resolve = absolute

    def exists(self) -> bool:
        """Whether a file is there, or any below it."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether a file is there."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Whether files are below it."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def stat(self) -> Stat:
        """Size and time of the last change."""
        return Stat(self._do("size"), self._do("modified").timestamp())

    def iterdir(self) -> Iterator["Remote"]:
        """What lies directly below."""
        for found in self._do("ls", detail=False):
            yield self / found.rstrip("/").rpartition("/")[2]

    def open(self, mode: str = "rb") -> Any:
        """Open for reading bytes."""
        assert mode == "rb", "files are written by `flowpairs.pipeline.base.atomic.whole`"
        return self._do("open", mode)

    def read_bytes(self) -> bytes:
        """All bytes."""
        return self._do("cat_file")

    def read_text(self) -> str:
        """All text."""
        return self.read_bytes().decode()

    def put(self, file: Path) -> None:
        """Take over the bytes of a local file."""
        self._do("put_file", before=(str(file),))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: the first file makes it. A bucket is never made, so that a misspelt one is an error."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if not missing_ok or self.exists():
            self._do("rm_file")

    def _info(self) -> dict[str, Any] | None:
        """What is there; None where nothing is. Any other answer is no answer, and never taken for nothing."""
        try:
            return self._do("info")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.url}: {error or type(error).__name__}; {CHECK}") from error

    def _do(self, operation: str, *arguments: Any, before: tuple[str, ...] = (), **options: Any) -> Any:
        """Call the filesystem, one a process, which remembers nothing of what others write meanwhile.

        Raises:
            OSError: as of local files.
            InputError: whatever else the filesystem's library raises, such as missing credentials.
        """
        try:
            filesystem, path = fsspec.url_to_fs(self.url, use_listings_cache=False)
            return getattr(filesystem, operation)(*before, path, *arguments, **options)
        except OSError:
            raise
        except Exception as error:  # every cloud's library has a tree of its own
            raise InputError(f"{self.url}: {error}; {CHECK}") from error


AnyPath = Path | Remote


def as_path(where: "str | AnyPath", key: str | None = None) -> AnyPath:
    """The path or URL that a user wrote.

    A `file://` URL is a local path like any other, in which %41 is an A and ? and # are themselves, as for
    `pathlib.Path.from_uri`.

    Args:
        where: a local path or a URL.
        key: of the configuration that holds it, for messages.

    Raises:
        InputError: a scheme that fsspec does not know, one whose package is not installed, or a relative `file://`.
    """
    if not isinstance(where, str):
        return where
    scheme, separator, rest = where.partition("://")
    if not separator:
        return Path(where)
    named = repr(where) if key is None else f"{key}={where!r}"
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

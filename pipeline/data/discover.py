"""Discovery: `data.path` -> a filesystem, the sorted files and one format, recognised by the files' extensions."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path

Format = Literal["digits", "npz", "parquet", "tars", "folder"]

FORMATS: dict[str, Format] = {
    ".npz": "npz",
    ".parquet": "parquet",
    ".tar": "tars",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm"), "folder"),
}
# One npz file is one data set, so a directory of them would be many; one image is no data set.
SINGLE_ONLY, DIRECTORY_ONLY = "npz", "folder"


@dataclass(frozen=True)
class Location:
    """The files of one data set, in one format, on one filesystem."""

    path: str  # as the user wrote it, for messages
    format: Format
    filesystem: fsspec.AbstractFileSystem
    root: str  # the directory, or the file itself, as the filesystem writes it
    files: tuple[str, ...]  # sorted, so that data ids never depend on the order of a listing

    @property
    def local(self) -> bool:
        """Whether files are local: these are checked in full before they are read, remote ones by their first rows."""
        return isinstance(self.filesystem, LocalFileSystem)

    def ray_paths(self) -> dict[str, Any]:
        """Return the arguments by which Ray Data's readers find the files."""
        return {"paths": list(self.files), "filesystem": None if self.local else self.filesystem}


def locate(path: str) -> Location:
    """Find the files of a data set.

    Args:
        path: "digits", a file, a directory (searched recursively; names that begin with "." or "_" are left out),
            or an fsspec URL of either.

    Raises:
        InputError: unknown scheme, nothing there, no file of a known format, or files of several.
    """
    if path == "digits":
        return Location(path, "digits", LocalFileSystem(), "", ())
    where = as_path(path, "data.path")
    try:
        if isinstance(where, Path):
            filesystem: fsspec.AbstractFileSystem = LocalFileSystem()
            root = str(where.expanduser().absolute())
        else:
            filesystem, root = fsspec.url_to_fs(path)
        if filesystem.isfile(root):
            files = [root]
        elif filesystem.isdir(root):
            files = sorted(file for file in filesystem.find(root) if not _hidden(file, root))
        else:
            raise InputError(
                f"data.path={path!r}: no such file or directory; give digits, a file, a directory or a URL"
            )
    except InputError:
        raise
    except Exception as error:  # every cloud's library has its own exceptions
        raise InputError(f"data.path={path!r}: cannot be opened ({error}); check the path and its scheme") from error

    single = files == [root]
    by_format: dict[Format, list[str]] = {}
    for file in files:
        form = FORMATS.get(PurePosixPath(file).suffix.lower())
        if form is not None and form != (DIRECTORY_ONLY if single else SINGLE_ONLY):
            by_format.setdefault(form, []).append(file)
    if not by_format:
        raise InputError(
            f"data.path={path!r}: no known format; give digits, a .npz, .parquet or .tar file, "
            "or a directory of .parquet files, .tar files or images"
        )
    if len(by_format) > 1:
        raise InputError(f"data.path={path!r}: holds {' and '.join(sorted(by_format))} files at once; separate them")
    ((format, chosen),) = by_format.items()
    return Location(path, format, filesystem, root, tuple(chosen))


def _hidden(file: str, root: str) -> bool:
    """Return whether a name below the root is a leftover of a tool, as in `_SUCCESS` or `.cache/`."""
    below = PurePosixPath(file.removeprefix(root)).parts
    return any(part.startswith((".", "_")) for part in below)

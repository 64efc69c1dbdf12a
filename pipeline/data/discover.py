"""Discovery: `data.path` -> a filesystem, the sorted files and one format, recognised by the files' extensions.

A path with `*`, `?` or `[...]` that is no file's or directory's own name is a pattern, in which `**` spans directories.
Files below a directory that are not of the format are named on stderr; what looks like data is refused, or with
`data.on_bad: skip` only named. Files of two splits (train, test, validation) are never read together.
"""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.images import POINTER
from flowpairs.pipeline.data.schema import FIRST
from flowpairs.pipeline.data.spec import Format

IMAGES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".jp2", ".j2k"),
)
FORMATS: dict[str, Format] = {
    **dict.fromkeys(IMAGES, "folder"),
    ".npy": "arrays",
    ".npz": "npz",
    **dict.fromkeys((".pt", ".pth", ".safetensors"), "tensors"),
    **dict.fromkeys((".parquet", ".pq", ".parq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    ".tar": "tars",
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "csv"),
    ".h5ad": "h5ad",
}
ALONE = "npz", "tensors", "h5ad"  # one such file is one data set, so a directory of them would be many
BESIDE = "csv"  # a table beside other files describes them
# Looks like data, and is not read.
LIKE_DATA = re.compile(
    r"\.(gz|tgz|bz2|tbz2?|xz|txz|zst|lz4|snappy|zip|7z|rar|heic|heif|jxl|dng|cr2|nef|exr|hdr|psd|svg|pkl|pickle|joblib"
    r"|mat|h5|hdf5|tfrecords?|mdb|lmdb|zarr|jsonl|ndjson|mds|orc|avro|ckpt|bin|mp4|avi|mov)$"
)
# What datasets, hubs and people write beside the data.
SIDE_FILES = re.compile(
    r"(README|LICEN[CS]E|NOTICE|CITATION|SOURCE|CHANGELOG)\b.*|dataset_infos?\.json|state\.json|dataset_dict\.json"
    r"|Thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
# A directory of a split, as train, train2017, training_set or images_test.
SPLIT_DIRECTORY = re.compile(
    rf"((images?|imgs?|data)[_-]?)?(?P<split>{'|'.join(SPLITS)})([_-]?(set|split|images?|imgs?|data|\d+))?",
    re.IGNORECASE,
)
MAGIC = re.compile(r"[*?\[]")
SNIFFED = 1024  # bytes; a smaller file may be a pointer of Git LFS


@dataclass(frozen=True)
class Site:
    """Where a data set lies."""

    path: str  # as the user wrote it, for messages
    filesystem: fsspec.AbstractFileSystem
    root: str  # the directory, or the file itself, as the filesystem writes it; of a pattern, the part before it
    pattern: str | None = None

    @property
    def local(self) -> bool:
        """Whether files are local."""
        return isinstance(self.filesystem, LocalFileSystem)

    def below(self, file: str) -> tuple[str, ...]:
        """Split a file's path below the root into names."""
        return PurePosixPath(file.removeprefix(self.root.rstrip("/") + "/")).parts


@dataclass(frozen=True)
class Location:
    """The files of one data set, in one format, on one filesystem."""

    site: Site
    format: Format
    files: tuple[str, ...]  # sorted, so that data ids never depend on the order of a listing
    sizes: tuple[int, ...]  # in bytes, as far as the filesystem says


def site_of(path: str) -> Site:
    """Find the filesystem and the root of `data.path`, without listing anything.

    Raises:
        InputError: unknown scheme, nothing there.
    """
    if path == "digits":
        return Site(path, LocalFileSystem(), "")
    where = as_path(path, "data.path")
    try:
        if isinstance(where, Path):
            filesystem: fsspec.AbstractFileSystem = LocalFileSystem()
            root = str(where.expanduser().absolute())
        else:
            filesystem, root = fsspec.url_to_fs(path)
        if filesystem.exists(root):
            return Site(path, filesystem, root)
        if MAGIC.search(root):
            parts = root.split("/")
            fixed = next(number for number, part in enumerate(parts) if MAGIC.search(part))
            return Site(path, filesystem, "/".join(parts[:fixed]), root)
    except InputError:
        raise
    except Exception as error:  # every cloud's library has its own exceptions
        raise InputError(f"data.path={path!r}: cannot be opened ({error}); check the path and its scheme") from error
    raise InputError(f"data.path={path!r}: no such file or directory; give digits, a file, a directory or a URL")


def locate(config: DataConfig, *, quiet: bool = True) -> Location:
    """Find the files of a data set.

    Args:
        config: `data:` of a configuration. Its path is "digits", a file, a directory (searched recursively; names that
            begin with "." or "_" are left out), a pattern, or an fsspec URL of one of these.
        quiet: do not name on stderr what is left out.

    Raises:
        InputError: nothing there, no file of a known format, files of several formats or splits, files that look like
            data and are not read, files of 0 bytes, pointers of Git LFS.
    """
    site = site_of(config.path)
    if config.path == "digits":
        return Location(site, "digits", ("digits",), (0,))
    found = _listed(site)
    single = list(found) == [site.root]
    _refuse_odd(config, site, found)
    by_format: dict[Format, list[str]] = {}
    others: list[str] = []
    for file in sorted(found):
        form = FORMATS.get(_ending(file))
        if form is None or (form == "folder" and single):
            others.append(file)
        else:
            by_format.setdefault(form, []).append(file)
    if len(by_format) > 1 and BESIDE in by_format:
        others = sorted(others + by_format.pop(BESIDE))
    if single and others and FORMATS.get(_ending(others[0])) == "folder":
        raise InputError(f"data.path={config.path!r}: a single image is no data set; give the directory of the images")
    if not by_format:
        raise InputError(_no_format(site, others))
    if len(by_format) > 1:
        counts = " and ".join(f"{len(files)} {_ending(files[0])}" for files in by_format.values())
        raise InputError(
            f"data.path={config.path!r}: holds {counts} files at once; give one file, or a pattern such as "
            f"{config.path.rstrip('/')}/*{_ending(next(iter(by_format.values()))[0])}"
        )
    ((form, files),) = by_format.items()
    files, site = _of_split(config, site, files)
    if form in ALONE and len(files) > 1 and site.pattern is None:
        raise InputError(
            f"data.path={config.path!r}: {len(files)} {_ending(files[0])} files, each a data set of its own; name one, "
            "or read them as one by a pattern"
        )
    _left_out(config, site, others, len(files), quiet)
    sizes = tuple(found[file] for file in files)
    if form == "arrays" and len(files) == 1:
        form = "npy"  # the first axis of a single array counts the data
    if form not in ("folder", "arrays"):  # there a file is a row
        _refuse_empty(config, site, files, sizes)
    return Location(site, form, tuple(files), sizes)


def pointer_reason(head: bytes) -> str | None:
    """Say what is wrong with a file of these first bytes, whatever its format; None where that is not known."""
    if not head:
        return "a file of 0 bytes; copy it again"
    if head.startswith(POINTER):
        return "a Git LFS pointer; run `git lfs pull` where it was cloned"
    return None


def _listed(site: Site) -> dict[str, int]:
    """List the files with their sizes."""
    filesystem, root = site.filesystem, site.root
    try:
        if site.pattern is not None:
            found: dict[str, Any] = {}
            for name, info in filesystem.glob(site.pattern, detail=True).items():
                found |= {name: info} if info["type"] == "file" else filesystem.find(name, detail=True)
            if not found:
                raise InputError(f"data.path={site.path!r}: no file matches the pattern; check it")
        elif filesystem.isfile(root):
            found = {root: filesystem.info(root)}
        elif site.local:
            return {file: size for file, size in _walk(Path(root), ()) if not _hidden(file, site)}
        else:
            found = filesystem.find(root, detail=True)
        return {
            file: int(info.get("size") or 0) for file, info in found.items() if file == root or not _hidden(file, site)
        }
    except InputError:
        raise
    except Exception as error:  # every cloud's library has its own exceptions
        raise InputError(
            f"data.path={site.path!r}: cannot be listed ({error}); check the path and its scheme"
        ) from error


def _walk(directory: Path, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield the files below a local directory with their sizes, -1 for what is no file; links are followed."""
    real = os.path.realpath(directory)
    if real in above:
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), (*above, real))
            else:
                yield entry.path, entry.stat().st_size if entry.is_file() else -1


def _ending(file: str) -> str:
    name = PurePosixPath(file.lower())
    double = "".join(name.suffixes[-2:])
    return double if double in FORMATS else name.suffix


def _no_format(site: Site, others: list[str]) -> str:
    endings = sorted({_ending(file) or PurePosixPath(file).name for file in others})
    among = f" among {_few(endings)}" if endings else ", no files"
    return (
        f"data.path={site.path!r}: no known format{among}; give digits, a .npz, .npy, .pt, .safetensors, .parquet, "
        ".arrow, .tar, .csv or .h5ad file, or a directory of .parquet, .arrow or .tar files, images or .npy arrays"
    )


def _of_split(config: DataConfig, site: Site, files: list[str]) -> tuple[list[str], Site]:
    """Choose the files of the split; refuse a choice that is not made."""
    named = {file: split_of(site.below(file) if file != site.root else (PurePosixPath(file).name,)) for file in files}
    splits = sorted({split for split in named.values() if split is not None})
    if config.split is None:
        if len(splits) > 1 and site.root not in files:
            suggested = "train" if "train" in splits else splits[-1]
            counts = ", ".join(f"{name} ({list(named.values()).count(name):,} files)" for name in splits)
            raise InputError(
                f"data.path={config.path!r}: holds the splits {counts}; choose one with data.split={suggested}, or "
                "with a pattern in data.path"
            )
        return files, site
    wanted = SPLITS.get(config.split.lower(), config.split)
    chosen = [file for file in files if named[file] == wanted]
    if not chosen:
        raise InputError(
            f"data.split={config.split!r}: no file is of that split; the names in {config.path!r} say "
            f"{', '.join(splits) or 'no split'}"
        )
    return chosen, site


def split_of(parts: tuple[str, ...]) -> str | None:
    """Find the split that a path names: a directory, or the first or last word of the file's name; None without."""
    for part in parts[:-1]:
        if (split := split_of_directory(part)) is not None:
            return split
    words = re.findall(r"[a-z]+|\d+", parts[-1].lower().partition(".")[0])
    for word in (*words[:1], *words[-1:]):
        if word in SPLITS:
            return SPLITS[word]
    return None


def split_of_directory(name: str) -> str | None:
    """Find the split that a directory's name says; None without."""
    found = SPLIT_DIRECTORY.fullmatch(name)
    return None if found is None else SPLITS[found["split"].lower()]


def _left_out(config: DataConfig, site: Site, others: list[str], read: int, quiet: bool) -> None:
    """Refuse what looks like data, and name the rest."""
    told = [file for file in others if not SIDE_FILES.fullmatch(PurePosixPath(file).name)]
    data = [file for file in told if LIKE_DATA.search(file.lower())]
    if data and config.on_bad == "refuse":
        raise InputError(
            f"data.path={config.path!r}: {len(data):,} files look like data and cannot be read: "
            f"{_few(['/'.join(site.below(file)) for file in data])}; unpack, convert or move them, or leave them out "
            "with data.on_bad=skip"
        )
    if told and not quiet:
        names = _few(["/".join(site.below(file)) for file in told])
        print_line(f"data.path={config.path!r}: {read:,} files are read, {len(told):,} are not: {names}", sys.stderr)


def _refuse_odd(config: DataConfig, site: Site, found: dict[str, int]) -> None:
    """Refuse, or take from what was found, dangling links, pipes and devices that are named like data."""
    odd = sorted(file for file, size in found.items() if size < 0)
    if odd and config.on_bad == "refuse":
        names = _few(["/".join(site.below(file)) for file in odd])
        raise InputError(
            f"data.path={config.path!r}: {len(odd):,} entries are dangling links or no files: {names}; mend or remove "
            "them, or leave them out with data.on_bad=skip"
        )
    for file in odd:
        del found[file]


def _refuse_empty(config: DataConfig, site: Site, files: list[str], sizes: tuple[int, ...]) -> None:
    """Refuse files of 0 bytes and pointers of Git LFS, all at once."""
    reasons: dict[str, list[str]] = {}
    for file, size in zip(files, sizes, strict=True):
        if size < SNIFFED and (site.local or size):
            try:
                head = site.filesystem.cat_file(file, 0, len(POINTER))
            except Exception:  # what cannot be opened says so when it is read
                continue
            if (reason := pointer_reason(head)) is not None:
                reasons.setdefault(reason, []).append(file)
    if reasons:
        said = "; ".join(f"{len(some):,} of {len(files):,} ({_few(some)}): {why}" for why, some in reasons.items())
        raise InputError(f"data.path={config.path!r}: files without data: {said}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (", ..." if len(names) > FIRST else "")


def _hidden(file: str, site: Site) -> bool:
    """Return whether a name below the root is a leftover of a tool, as in `_SUCCESS` or `.cache/`."""
    return any(part.startswith((".", "_")) for part in site.below(file))

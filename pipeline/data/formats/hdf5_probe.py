"""Reading of what HDF5 files say of themselves, in a process of its own: a damaged file may keep the library forever.

    python -P hdf5_probe.py SECONDS COLUMNS URL [URL ...]

opens each file, follows its links, and reads its attributes, the index of its chunks, and the columns of obs in the
JSON list COLUMNS, as `CellReader` does; it prints the number of a file before that. A file may take as many seconds of
processor time, and the process is ended by SIGXCPU at one that takes more. (In the process that wants the data nothing
could end it: the library holds Python's lock, for which other threads and handlers of signals wait.)
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import Any

import fsspec
import h5py


def probe(seconds: int, columns: Sequence[str], urls: Sequence[str]) -> None:
    """Read files as said above. One that HDF5 refuses is done with: whoever reads it is told so again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, url in enumerate(urls):
        print(number, flush=True)
        used = int(sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + seconds, resource.RLIM_INFINITY))
        try:
            with fsspec.open(url, "rb") as opened, h5py.File(opened, "r") as file:
                look(file)
                for name in columns:
                    read(file["obs"][name])
        except Exception:  # HDF5 raises errors of any kind
            continue


def look(file: h5py.File) -> None:
    """Visit everything that is in a file, with its attributes and the index of its chunks."""

    def visit(name: str, link: Any) -> None:
        if isinstance(link, h5py.HardLink):
            found = file[name]
            dict(found.attrs)
            if isinstance(found, h5py.Dataset) and found.chunks:
                found.id.get_num_chunks()

    dict(file.attrs)
    file.visititems_links(visit)


def read(stored: Any) -> None:
    """Read a column, or the parts of one."""
    for part in stored.values() if hasattr(stored, "values") else (stored,):
        part[:]


if __name__ == "__main__":
    probe(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])

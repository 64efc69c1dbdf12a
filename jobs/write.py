"""`flowpairs write DIR FILE...`: make a pair store of pairs that were made elsewhere."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flowpairs.pipeline.base.printing import print_line


def write(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="the pair store to make")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help=".npz with x0, x1 and, if any, label; one part each")
    ],
) -> None:
    """Write pairs of your own (by reflow, by distillation, of another library) as a pair store; run again to go on.

    Example: `flowpairs write out/reflow pairs-0.npz pairs-1.npz`
    """
    from flowpairs import missing_parts
    from flowpairs import write as write_part

    todo = missing_parts(directory, len(files))
    if 0 < len(todo) < len(files):
        print_line(f"{directory}: going on, {len(files) - len(todo)} of {len(files)} parts are there")
    index = None
    for part, file in enumerate(files):
        index = write_part(directory, *read_pairs(file), part=part, parts=len(files))
    assert index is not None
    print_line(f"{directory}: {index.pairs:,} pairs of shape {list(index.shape)}, {index.num_classes:,} classes")


def read_pairs(file: Path) -> tuple[Any, ...]:
    """Read x0, x1 and label, if there is one, of an .npz file.

    Raises:
        InputError: no such file, no .npz of arrays, or no x0 and x1 in it.
    """
    from flowpairs.pipeline.base.errors import InputError
    from flowpairs.pipeline.base.npy import load_npz

    if not os.path.isfile(file):  # noqa: PTH113 - a path that is too long is refused, too
        raise InputError(f"FILE={str(file)!r}: no such file; give .npz files with x0 and x1")
    try:
        with file.open("rb") as opened:
            arrays = load_npz(opened)
    except (OSError, ValueError) as error:
        raise InputError(f"FILE={str(file)!r}: cannot be read as .npz ({error}); write it with numpy.savez") from error
    if not {"x0", "x1"} <= arrays.keys():
        raise InputError(f"FILE={str(file)!r}: has {', '.join(sorted(arrays)) or 'nothing'}; give x0 and x1")
    return arrays["x0"], arrays["x1"], arrays.get("label")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(write)

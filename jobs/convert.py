"""`flowpairs convert DIR DESTINATION --payload P`: write the same pairs with another payload."""

from typing import Annotated

import typer

from flowpairs.pipeline.base.printing import print_line


def convert(
    directory: Annotated[str, typer.Argument(help="a complete pair store, a directory or a URL")],
    destination: Annotated[str, typer.Argument(help="a new directory or URL")],
    payload: Annotated[str, typer.Option(help="full, seeded (noise left out) or ids (12 bytes a pair at most)")],
) -> None:
    """Copy a pair store with payload `full`, `seeded` or `ids`; the pairs stay the same bit by bit.

    Example: `flowpairs convert out/digits out/digits-ids --payload ids`
    """
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.pipeline.convert import convert as run_job

    index = run_job(as_path(directory), as_path(destination), payload)
    size = sum(shard.bytes for shard in index.shards)
    print_line(f"{destination}: {index.pairs:,} pairs, {size:,} bytes of shards, {size / index.pairs:.1f} bytes a pair")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(convert)

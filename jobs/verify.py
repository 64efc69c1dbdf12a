"""`flowpairs verify DIR`: read every byte of a pair store and hold it against its index."""

from typing import Annotated

import typer


def verify(
    directory: Annotated[str, typer.Argument(help="a complete pair store")],
    deep: Annotated[int, typer.Option(help="compute this many blocks again and compare bit by bit", min=0)] = 0,
    import_cost: Annotated[
        bool, typer.Option("--import-cost", help="let --deep import and run a cost function that the store names")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Check counts, hashes, record keys, shapes and data ids; exit 1 and name each fault where there is one.

    Example: `flowpairs verify out/digits --deep 1`
    """
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.pipeline.store.verify import print_verdict

    if not print_verdict(as_path(directory), deep=deep, as_json=json, import_cost=import_cost):
        raise typer.Exit(1)


if __name__ == "__main__":
    from flowpairs.jobs.run import run

    run(verify)

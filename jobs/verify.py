"""`flowpairs verify DIR`: read every byte of a pair store and compare it with the index."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.pipeline.base.printing import counted, print_line

if TYPE_CHECKING:
    from flowpairs.pipeline.store.verify import Verdict


def verify(
    directory: Annotated[str, typer.Argument(help="a complete pair store")],
    deep: Annotated[int, typer.Option(help="compute this many blocks again and compare bit by bit", min=0)] = 0,
    import_cost: Annotated[
        bool, typer.Option("--import-cost", help="let --deep import and run a cost function that the store names")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="let --deep import a network that is a class of the run's maker")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Check counts, hashes, record keys, shapes and data ids; print each fault and exit with status 1 if there is one.

    Example: `flowpairs verify out/digits --deep 1`
    """
    from flowpairs import PairStore

    verdict = PairStore(directory).verify(deep, import_cost=import_cost, trust=trust)
    print_verdict(verdict, as_json=json)
    if verdict.faults:
        raise typer.Exit(1)


def print_verdict(verdict: "Verdict", as_json: bool) -> None:
    """Print every fault and the counts of what was read, or both as one JSON object."""
    if as_json:
        from json import dumps

        print(dumps({**vars(verdict), "ok": not verdict.faults}))
        return
    for fault in verdict.faults:
        print_line(fault)
    read = {"shard": verdict.shards, "record": verdict.records, "pair": verdict.pairs, "byte": verdict.bytes}
    found = counted(len(verdict.faults), "fault") if verdict.faults else "whole"
    print_line(f"{verdict.directory}: {', '.join(counted(count, noun) for noun, count in read.items())}: {found}")
    if verdict.recomputed:
        print(f"{counted(verdict.recomputed, 'block')} computed again: {found if verdict.faults else 'the same bits'}")
    if not verdict.data_used:  # potentials alone, or nothing that could be read
        return
    of = f" of {verdict.data:,}" if verdict.data else ""
    drawn = f"{verdict.draw_error:.3f} from being drawn equally often (independent draws: {verdict.chance_error:.3f})"
    print(f"{verdict.data_used:,}{of} data occur, in L1 {drawn}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(verify)

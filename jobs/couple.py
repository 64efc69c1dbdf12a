"""`flowpairs couple CONFIG`: compute couplings on Ray and write a pair store."""

from pathlib import Path
from typing import Annotated

import typer

from flowpairs.jobs.options import DryRun


def couple(
    config: Annotated[Path, typer.Argument(help="YAML config, such as configs/digits/couple.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in coupling.n=4096")] = None,
    extend: Annotated[bool, typer.Option("--extend", help="add pairs to a store with a smaller output.pairs")] = False,
    dry_run: DryRun = False,
    trust: Annotated[bool, typer.Option("--trust", help="import a network that is a class of the run's maker")] = False,
) -> None:
    """Couple noise, or other data, with data and write the pairs as WebDataset shards; run again to resume.

    Example: `flowpairs couple configs/digits/couple.yaml coupling.rel_eps=0.03 output.dir=out/sharp`
    """
    from flowpairs.pipeline.config import CoupleConfig, load

    settings = load(CoupleConfig, config, overrides)
    if dry_run:
        from flowpairs.jobs._dry_run import show_coupling

        show_coupling(settings, extend=extend, trust=trust)
        return
    from flowpairs import PairStore
    from flowpairs.jobs._summary import print_summary

    store = PairStore.of(settings)
    store.couple(extend=extend, trust=trust)
    print_summary(store.directory)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(couple)

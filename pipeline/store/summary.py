"""The short table that ends a coupling job."""

from pipeline.place import Place
from pipeline.store import format, tables


def print_summary(directory: Place) -> None:
    """Print what a complete pair store holds and how good its couplings are."""
    from rich.console import Console
    from rich.table import Table

    index, blocks = format.read_index(directory), tables.read_blocks(directory)

    def mean(key: str) -> float:
        return sum(row[key] for row in blocks) / len(blocks)

    table = Table(title=f"pair store {directory}", show_header=False)
    table.add_row(
        "pairs", f"{index.pairs:,} in {len(index.shards):,} shards, {sum(s.bytes for s in index.shards):,} bytes"
    )
    table.add_row("method", f"{index.method}, {len(blocks):,} blocks of {blocks[0]['n']:,} x {blocks[0]['m']:,}")
    if index.method == "sinkhorn":
        table.add_row("eps", f"{mean('eps'):.4g} absolute, {mean('rel_eps'):.4g} relative to std(C)")
        table.add_row("passes a block", f"{mean('passes'):.0f}")
    if index.method != "imported":  # whose couplings are not known, only their pairs
        table.add_row("sharpness E", f"{mean('entropy'):.3f} (n^E = {mean('partners'):.1f} partners a row)")
        worst = max(max(row["source_error"], row["target_error"]) for row in blocks)
        table.add_row("worst marginal error (L1)", f"{worst:.2e}")
    before, after = mean("cost_independent"), mean("cost_coupled")
    table.add_row("mean squared distance", f"{before:.4g} independent, {after:.4g} coupled (in feature space)")
    table.add_row("seconds a block", f"{mean('seconds'):.2f}")
    Console().print(table)

"""The short table that a coupling job prints at its end."""

from typing import Any

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.store import block_reports, format


def print_summary(directory: AnyPath) -> None:
    """Print what a complete pair store holds and how good its couplings are."""
    from rich.console import Console
    from rich.table import Table

    index, blocks = format.read_index(directory), block_reports.read_blocks(directory)

    def mean(key: str) -> float:
        return sum(row[key] for row in blocks) / len(blocks)

    table = Table(title=f"pair store {directory}", show_header=False)
    if index.method == "semidiscrete":
        _add_potentials(table, directory)
    table.add_row(
        "pairs", f"{index.pairs:,} in {len(index.shards):,} shards, {sum(s.bytes for s in index.shards):,} bytes"
    )
    if not blocks:
        Console().print(table)
        return
    table.add_row("method", f"{index.method}, {len(blocks):,} blocks of {blocks[0]['n']:,} x {blocks[0]['m']:,}")
    if index.method == "sinkhorn":
        table.add_row("eps", f"{mean('eps'):.4g} absolute, {mean('rel_eps'):.4g} relative to std(C)")
        table.add_row("passes a block", f"{mean('passes'):.0f}")
    if index.method != "imported":  # imported couplings are not known, only their pairs
        table.add_row("sharpness E", f"{mean('sharpness'):.3f} ({mean('partners'):.1f} partners per source row)")
    if index.method not in ("imported", "semidiscrete"):
        worst = max(max(row["source_error"], row["target_error"]) for row in blocks)
        table.add_row("worst marginal error (L1)", f"{worst:.2e}")
        if all(row.get("plan_error") is not None for row in blocks):
            table.add_row("worst error of a plan (L1)", f"{max(row['plan_error'] for row in blocks):.2e}, estimated")
    before, after = mean("cost_independent"), mean("cost_coupled")
    table.add_row(index.cost_name, f"{before:.4g} independent, {after:.4g} coupled (in feature space)")
    table.add_row("seconds a block", f"{mean('seconds'):.2f}")
    Console().print(table)


def _add_potentials(table: Any, directory: AnyPath) -> None:
    """Add rows that describe the potentials of a semi-discrete coupling."""
    from flowpairs.pipeline.store import potential_files

    found = potential_files.load_potentials(directory)
    points, seconds = (sum(report[key] for report in found.reports) for key in ("points", "seconds"))
    problems = f"{len(found.reports)} problems, one a class" if len(found.reports) > 1 else "one problem"
    table.add_row("potentials", f"of {len(found.g):,} data, {problems}, {points:,} points in {seconds:.1f} s")
    table.add_row("eps", f"{found.eps:.4g} absolute, {found.rel_eps:.4g} relative to std(C)")
    table.add_row("chi-square of the data's masses", f"{found.chi2:.3g}, on points that the potential had not seen")
    if all("least_mass" in report for report in found.reports):
        least = min(report["least_mass"] for report in found.reports)
        most = max(report["greatest_mass"] for report in found.reports)
        unused, chance = (sum(report[key] for report in found.reports) for key in ("unused", "unused_by_chance"))
        table.add_row("masses of single data", f"{least:.2f} to {most:.2f} times their weights, in the last pass")
        table.add_row("data that none of its points chose", f"{unused:,}; {chance:,.0f} expected by chance")

"""The short table that a coupling job prints at its end."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from flowpairs.jobs._tables import print_rows
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.printing import counted
from flowpairs.pipeline.store import block_reports, format


def print_summary(directory: AnyPath) -> None:
    """Print what a complete pair store holds and how good its couplings are."""
    index, blocks = format.read_index(directory), block_reports.read_blocks(directory)

    def mean(key: str) -> float:
        return sum(row[key] for row in blocks) / len(blocks)

    title, rows = f"pair store {directory}", list[tuple[str, str]]()
    if index.method == "semidiscrete":
        rows += _potentials(directory)
    rows.append(
        (
            "pairs",
            f"{index.pairs:,} in {counted(len(index.shards), 'shard')}, {sum(s.bytes for s in index.shards):,} bytes",
        )
    )
    if not blocks:
        print_rows(title, rows)
        return
    rows.append(("method", f"{index.method}, {_sizes(blocks)}"))
    if blocks[0]["method"] == "sinkhorn":
        rows.append(("eps", f"{mean('eps'):.4g} absolute, {mean('rel_eps'):.4g} relative to std(C)"))
        rows.append(("passes a block", f"{mean('passes'):.0f}"))
    coupled = all(row["sharpness"] is not None for row in blocks)
    if coupled:  # of imported pairs and those of a flow there is no coupling
        rows.append(("sharpness E", f"{mean('sharpness'):.3f} ({mean('partners'):.1f} partners per source row)"))
    if any(row.get("mass", 1.0) != 1 for row in blocks):
        rows.append(("mass of a plan", f"{mean('mass'):.4g}, where keeping the marginals would be 1"))
    if coupled and index.method != "semidiscrete":
        worst = max(max(row["source_error"], row["target_error"]) for row in blocks)
        rows.append(("worst marginal error (L1)", f"{worst:.2e}"))
        if all(row.get("plan_error") is not None for row in blocks):
            rows.append(("worst error of a plan (L1)", f"{max(row['plan_error'] for row in blocks):.2e}, estimated"))
    if all(row.get("cost_flow") is not None for row in blocks):
        rows.append(("mean squared distance", f"{mean('cost_flow'):.4g} of the flow's own pairs, coupled anew since"))
    before, after = mean("cost_independent"), mean("cost_coupled")
    rows.append((index.cost_name, f"{before:.4g} independent, {after:.4g} coupled (in feature space)"))
    if all(row.get("loss_bound") is not None for row in blocks):
        error = sum(row["loss_error"] ** 2 for row in blocks) ** 0.5 / len(blocks)
        rows.append(
            (
                f"of that, by {blocks[0]['regions']} regions",
                f"at most {mean('loss_bound'):.3g} (standard error {error:.1g})",
            )
        )
    rows += _legs(index, blocks)
    rows.append(("seconds a block", f"{mean('seconds'):.2f}"))
    print_rows(title, rows)


def _sizes(blocks: list[dict[str, Any]]) -> str:
    """Say how many blocks there are and how large the largest is, or all are."""
    n, m = (max(row[side] for row in blocks) for side in ("n", "m"))
    alike = all((row["n"], row["m"]) == (n, m) for row in blocks)
    return f"{counted(len(blocks), 'block')} of {'' if alike else 'up to '}{n:,} x {m:,}"


def _legs(index: format.Index, blocks: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield a row for each leg of a chain over time: its blocks, its sharpness and its costs."""
    legs = list(pairwise(index.times))
    for number, (start, end) in enumerate(legs):
        own = [row for row in blocks if row["block"] % len(legs) == number]
        before, after, sharpness = (
            sum(row[key] for row in own) / len(own) for key in ("cost_independent", "cost_coupled", "sharpness")
        )
        yield (
            f"leg from {start:g} to {end:g}",
            f"{_sizes(own)}, E {sharpness:.3f}, {before:.4g} independent, {after:.4g} coupled",
        )


def _potentials(directory: AnyPath) -> list[tuple[str, str]]:
    """Build the rows that describe the potentials of a semi-discrete coupling."""
    from flowpairs.pipeline.store import potential_files

    found = potential_files.load_potentials(directory)
    points, seconds = (sum(report[key] for report in found.reports) for key in ("points", "seconds"))
    rows = []
    problems = f"{len(found.reports)} problems, one a class" if len(found.reports) > 1 else "one problem"
    rows.append(("potentials", f"of {len(found.g):,} data, {problems}, {points:,} points in {seconds:.1f} s"))
    rows.append(("eps", f"{found.eps:.4g} absolute, {found.rel_eps:.4g} relative to std(C)"))
    rows.append(("chi-square of the data's masses", f"{found.chi2:.3g}, on points that the potential had not seen"))
    if all("least_mass" in report for report in found.reports):
        least = min(report["least_mass"] for report in found.reports)
        most = max(report["greatest_mass"] for report in found.reports)
        unused, chance = (sum(report[key] for report in found.reports) for key in ("unused", "unused_by_chance"))
        rows.append(("masses of single data", f"{least:.2f} to {most:.2f} times their weights, in the last pass"))
        rows.append(("data that none of its points chose", f"{unused:,}; {chance:,.0f} expected by chance"))
    return rows

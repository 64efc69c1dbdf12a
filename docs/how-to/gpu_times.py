"""Least seconds of a solve on H100s, by the arithmetic of docs/gpu.md's table of kernels: nothing measured.

A pass of a Sinkhorn solve is a log-sum and a sweep over n^2 entries, each as long as the larger of its last two columns
in that table; members of a team share the rows. Passes at foretold rows, which are the sweep alone, count as much here.
With `--semidiscrete`, the rounds of a semi-discrete solve are the same two over its points and N data, and a partner is
the argmax over N. What goes on between passes (sums, the stand-in) is left out, and kernels that reach half of a
vendor's peak take twice as long.
"""

import sys
from pathlib import Path

PASSES = 4  # from rel_eps 1 down to 0.001 a solve takes 2 to 4 (docs/solver.md)
POINTS = 20  # a datum of a semi-discrete solve to chi2 0.05; measured: 18 to 19 (docs/semidiscrete.md)
ROWS = (Path(__file__).parents[1] / "gpu.md").read_text().splitlines()


def entry(kernel: str, features: int) -> float:
    """Picoseconds of an entry on one H100; products grow with the features, of which a kernel takes multiples of 64."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in ROWS if row.startswith(f"| {kernel} | H100 |")]
    least, most = ([float(cell) for cell in row[2:]] for row in rows)
    tabled = least if features <= least[0] else most
    return max(tabled[4] * (-(-features // 64) * 64) / tabled[0], tabled[5])


def semidiscrete() -> None:
    """Print the times of semi-discrete solves, and of partners."""
    print("| N | features d | entry of a round | 1 GPU | 8 GPUs | a million partners, 1 GPU |")
    print("|---|---|---|---|---|---|")
    for count in (1_280_000, 2_560_000):
        for features in (500, 3072):
            of_round = entry("log-sum", features) + entry("sweep", features)
            seconds = POINTS * count**2 * of_round * 1e-12
            partners = 1e6 * count * entry("argmax", features) * 1e-12
            print(
                f"| {count:,} | {features:,} | {of_round:.3g} ps | {seconds:,.0f} s | {seconds / 8:,.0f} s "
                f"| {partners:.2g} s |"
            )


def sinkhorn() -> None:
    """Print the times of Sinkhorn solves."""
    print("| n = m | features d | entry of a pass | 1 GPU | 8 GPUs | 64 GPUs |\n|---|---|---|---|---|---|")
    for power in (19, 20, 21):
        for features in (64, 500, 3072):
            of_pass = entry("log-sum", features) + entry("sweep", features)
            seconds = PASSES * 4**power * of_pass * 1e-12
            cells = " | ".join(f"{seconds / team:.3g} s" for team in (1, 8, 64))
            print(f"| 2^{power} | {features:,} | {of_pass:.3g} ps | {cells} |")


if __name__ == "__main__":
    semidiscrete() if sys.argv[1:] == ["--semidiscrete"] else sinkhorn()

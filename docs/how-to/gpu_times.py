"""Least seconds of a Sinkhorn solve on H100s, by the arithmetic of docs/gpu.md's table of kernels: nothing measured.

A pass is a log-sum and a sweep over n^2 entries, each as long as the larger of its last two columns in that table;
members of a team share the rows. What goes on between passes (sums, the stand-in) is left out, and kernels that reach
half of a vendor's peak take twice as long.
"""

from pathlib import Path

PASSES = 4  # from rel_eps 1 down to 0.001 a solve takes 2 to 4 (docs/solver.md)
ROWS = (Path(__file__).parents[1] / "gpu.md").read_text().splitlines()


def entry(kernel: str, features: int) -> float:
    """Picoseconds of an entry on one H100; products grow with the features, of which a kernel takes multiples of 64."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in ROWS if row.startswith(f"| {kernel} | H100 |")]
    least, most = ([float(cell) for cell in row[2:]] for row in rows)
    tabled = least if features <= least[0] else most
    return max(tabled[4] * (-(-features // 64) * 64) / tabled[0], tabled[5])


def main() -> None:
    """Print the table."""
    print("| n = m | features d | entry of a pass | 1 GPU | 8 GPUs | 64 GPUs |\n|---|---|---|---|---|---|")
    for power in (19, 20, 21):
        for features in (64, 500, 3072):
            of_pass = entry("log-sum", features) + entry("sweep", features)
            seconds = PASSES * 4**power * of_pass * 1e-12
            cells = " | ".join(f"{seconds / team:.3g} s" for team in (1, 8, 64))
            print(f"| 2^{power} | {features:,} | {of_pass:.3g} ps | {cells} |")


if __name__ == "__main__":
    main()

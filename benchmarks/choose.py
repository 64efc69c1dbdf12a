"""What `flowpairs plan --choose` estimates before anything is coupled, against networks trained on the pairs.

    python benchmarks/worth.py --data digits --skip semidiscrete
    python benchmarks/choose.py [--data digits] [--seeds 3] [--n 256 2048 16384]

The first trains on the couplings (benchmarks/worth.py) and leaves DIR/NAME.npz and DIR/rows-NAME.json. The second makes
the estimates of `--choose` for the same data from each of some seeds, in this process, and prints them beside what
training gave, with rank correlations; the standard deviation, over seeds, of each floor over the lowest; and what the
trend says of couplings that are not tried if the longest solve may take 2^31 multiplications only.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from flowpairs.jobs._choose import Candidate, choose_coupling
from flowpairs.pipeline.config import CoupleConfig, load

PAIRS = 65_536
AGAINST = [("loss", "floor"), ("curvature", "curvature"), ("FD 4", "floor"), ("FD 4", "Euler 4")]


def named(one: Candidate) -> str:
    """The name of a candidate in benchmarks/worth.py."""
    n = f" n={one.n}" if one.method == "sinkhorn" else ""
    return f"{one.method}{n}" + ("" if one.rel_eps is None else f" rel_eps={float(one.rel_eps)}")


def chosen(file: Path, seed: int, sizes: list[int], work: float | None = None) -> tuple[dict[str, Candidate], str]:
    """The candidates by name, and the name of the proposal, for a budget that pays for all."""
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "couple.yaml"
        output = {"dir": f"{temporary}/out", "pairs": PAIRS, "payload": "ids"}
        coupling, data = {"n": 256, "rel_eps": 0.03}, {"path": str(file), "column": "x"}
        tree = {"data": data, "source": {"seed": seed}, "coupling": coupling, "output": output}
        config.write_text(json.dumps(tree | {"cluster": {"actors": 0}}))  # JSON is YAML
        found = choose_coupling(lambda lines: load(CoupleConfig, config, lines), 1e6, sizes, work)
    return {named(one): one for one in found.candidates if one.worth is not None}, named(found.proposal)


def figure(one: Candidate, name: str) -> float:
    """A figure of a candidate by its name in the tables."""
    assert one.worth is not None
    return one.worth.errors[4] if name == "Euler 4" else getattr(one.worth, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--n", type=int, nargs="+", default=[256, 2048, 16384])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("out/worth"))
    options = parser.parse_args()
    for name in options.data:
        file, kept = options.dir.absolute() / f"{name}.npz", options.dir / f"rows-{name}.json"
        trained = {key: row["trained"] for key, row in json.loads(kept.read_text()).items() if "trained" in row}
        began, seconds, found, proposed = time.monotonic(), time.process_time(), [], []
        for seed in range(options.seeds):
            rows, proposal = chosen(file, seed, options.n)
            found.append(rows)
            proposed.append(proposal)
        seconds, wall = (time.process_time() - seconds) / options.seeds, (time.monotonic() - began) / options.seeds
        print(f"\n{name}: a choice takes {seconds:.0f} s of a core, {wall:.0f} s; proposed: {', '.join(proposed)}")
        print("| pairs | trained loss | floor, seed by seed | trained curvature | curvature |")
        for key in found[0]:
            loss, bend = (f"{trained[key][k]:.3g}" if key in trained else "-" for k in ("loss", "curvature"))
            cells = [", ".join(f"{figure(rows[key], k):.3g}" for rows in found) for k in ("floor", "curvature")]
            pairs = key if found[0][key].last is None else f"{key} (trend)"
            print(f"| {pairs} | {loss} | {cells[0]} | {bend} | {cells[1]} |")
        both = [key for key in found[0] if key in trained]
        for a, b in AGAINST:
            truth = [trained[key][a] for key in both]
            ranks = [f"{spearmanr(truth, [figure(rows[key], b) for key in both])[0]:.3f}" for rows in found]
            print(f"rank correlation of the trained {a} with {b}, {len(both)} couplings: {', '.join(ranks)}")
        floors = np.array([[figure(rows[key], "floor") for key in found[0]] for rows in found])
        spread = (floors / floors.min(1, keepdims=True)).std(0, ddof=1)
        print(
            f"standard deviation of a floor over the lowest: median {np.median(spread):.3f}, largest {spread.max():.3f}"
        )
        by_trend = chosen(file, 0, options.n, work=2.0**31)[0]
        for key, one in by_trend.items():
            if one.last is not None and found[0][key].last is None:
                print(f"by the trend: {key} {figure(one, 'floor'):.3g}, tried {figure(found[0][key], 'floor'):.3g}")


if __name__ == "__main__":
    main()

"""What `flowpairs --help` and `import flowpairs` take, and what share of its time `flowpairs couple` works on digits.

    python benchmarks/startup.py [--rounds 3]

Each job is a process of its own, from its start to its end; the figures are medians over the rounds. Work is from the
moment when the first block's solve begins to the moment when the index is written: solving, drawing and writing. Before
it come the imports, Ray's own start, reading (features included), and the start of the actors with their imports, torch
above all; after it Ray's shutdown. Each job runs on Ray and, with cluster.actors=0, in its own process. The last line
joins a Ray that runs already, as RAY_ADDRESS=auto does.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import ray

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digits" / "couple.yaml"
STAGES = ("imports", "Ray", "reading", "actors", "work", "end")
RUN = """
import sys, time
from pathlib import Path
from flowpairs.pipeline.config import CoupleConfig, load
config = load(CoupleConfig, sys.argv[1], sys.argv[2:])
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.couple import couple
imported = time.time()
if config.cluster.actors != 0:
    connect()
connected = time.time()
rows = []
couple(config, lambda row: rows.append((time.time(), row)))
done = time.time()
arrived, first = rows[0]
prepared = (Path(config.output.dir) / "config.yaml").stat().st_mtime
print(imported, connected, prepared, arrived - first["solve_seconds"] - first["write_seconds"], done)
"""


def stages(pairs: int, actors: str, environment: dict[str, str]) -> list[float]:
    """Seconds of every stage of one job."""
    with tempfile.TemporaryDirectory() as temporary:
        overrides = [f"output.dir={temporary}/out", f"output.pairs={pairs}", f"cluster.actors={actors}"]
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(CONFIG), *overrides],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        times = [start, *map(float, done.stdout.split()), time.time()]
    return [after - before for before, after in pairwise(times)]


def help_seconds() -> tuple[float, float]:
    """Seconds on the clock and of the processor; the second does not know what else the machine does."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(Path(sys.executable).parent / "flowpairs"), "--help"], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def import_seconds() -> float:
    """Seconds of the processor that `import flowpairs` takes, in a process of its own."""
    program = "import time; start = time.process_time(); import flowpairs; print(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    help_seconds()  # compiles what is not yet
    clock, processor = map(statistics.median, zip(*[help_seconds() for _ in range(9)], strict=True))
    print(f"flowpairs --help: {clock:.2f} s, {processor:.2f} s of the processor")
    print(f"import flowpairs: {1000 * statistics.median(import_seconds() for _ in range(9)):.1f} ms of the processor")
    print(f"{'pairs':>9s}  " + "".join(f"{stage:>9s}" for stage in STAGES) + "  work/all")

    def line(pairs: int, note: str = "", actors: str = "auto", **environment: str) -> None:
        runs = [stages(pairs, actors, environment) for _ in range(rounds)]
        share = statistics.median(run[STAGES.index("work")] / sum(run) for run in runs)
        medians = [statistics.median(column) for column in zip(*runs, strict=True)]
        print(f"{pairs:9,d}  " + "".join(f"{value:9.2f}" for value in medians) + f"  {share:8.2f}  {note}", flush=True)

    for pairs in (65_536, 131_072, 262_144):
        line(pairs)
        line(pairs, "in one process, cluster.actors=0", actors="0")
    context = ray.init(address="local", include_dashboard=False, log_to_driver=False)
    line(65_536, "joins Ray", RAY_ADDRESS=context.address_info["gcs_address"])


if __name__ == "__main__":
    main()

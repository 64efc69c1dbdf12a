"""A job's own series in Ray's metrics, which the agent of every node serves to Prometheus alongside Ray's.

The driver reports them for all its actors and workers. Ray passes a gauge on once, within ten seconds, and its agent
forgets it twenty seconds later; so the last values are set again as long as the job runs, and a job that has ended or
died leaves only its counters. Where no agent runs, the series go nowhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.progress import repeated

TAGS = ("output", "JobId")  # the directory's name; Ray's number of the job, under the tag of Ray's own series
GAUGES = {
    "couple_blocks_done": "blocks with all their shards",
    "couple_blocks_left": "blocks still to couple",
    "couple_pairs_per_second": "pairs written a second since the job was started",
    "couple_marginal_error": "worst L1 marginal error of the blocks since the job was started",
    "couple_potentials_ratio": "share of a semi-discrete coupling's solve that is done",
    "train_step": "steps taken",
    "train_steps_left": "steps still to take",
    "train_loss": "squared error per coordinate, over all workers",
    "train_pairs_per_second": "pairs trained on a second, over all workers",
    "train_data_wait_ratio": "share of the first worker's time that it waited for data",
}
PASSES = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]


class Telemetry:
    """The series of one job, all of them named flowpairs_*.

    Args:
        output: directory that the job writes to.
    """

    def __init__(self, output: AnyPath) -> None:
        self._tags = {"output": output.name, "JobId": ray.get_runtime_context().get_job_id()}
        self._gauges: dict[str, Gauge] = {}
        self._latest: dict[str, float | int] = {}
        self._pairs = Counter("flowpairs_couple_pairs", "pairs written", TAGS)
        self._passes = Histogram("flowpairs_couple_passes", "passes that a block took", PASSES, TAGS)

    def set(self, **values: float | int) -> None:
        """Set gauges by the names of `GAUGES`."""
        for name in values:
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"flowpairs_{name}", GAUGES[name], TAGS)
        self._latest |= values
        self.repeat()

    def repeat(self) -> None:
        """Report the gauges' values again."""
        for name, value in list(self._latest.items()):
            self._gauges[name].set(value, self._tags)

    def block(self, pairs: int, passes: int | None) -> None:
        """Count the pairs of a block, and its passes where it has any."""
        self._pairs.inc(pairs, self._tags)
        if passes is not None:
            self._passes.observe(passes, self._tags)


@contextmanager
def telemetry(output: AnyPath) -> Iterator[Telemetry]:
    """Report the series of a job until the `with` block ends; Ray must be running."""
    series = Telemetry(output)
    with repeated(series.repeat):
        yield series

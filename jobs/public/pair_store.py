"""`PairStore`: a pair store as one object; the commands on stores call its methods."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.extras import require
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.config import CoupleConfig, load, validate
from flowpairs.pipeline.store.format import Index, read_index

if TYPE_CHECKING:
    from flowpairs.pipeline.plan import Plan
    from flowpairs.pipeline.store.status import Status
    from flowpairs.pipeline.store.verify import Verdict
    from flowpairs.training.pairs.dataset import PairDataset
    from flowpairs.training.pairs.reading.shard_batches import Tensors


class PairStore:
    """The pairs in a directory or at a URL, and the coupling job that makes them.

    `len(store)`, `store[i]`, `store[2:8]` and iteration read pairs of a complete store as `PairDataset` does.

    Args:
        directory: of the store, which may be complete, begun, or not there yet where a config is given.
        config: of the coupling job: the path of a YAML file, nested keys and values, or a validated config. Its
            `output.dir` is `directory`. None: the one that the store has recorded.

    Raises:
        InputError: a ValueError that names the key, the value and the remedy; from the methods too.
    """

    def __init__(
        self, directory: str | AnyPath, config: "str | AnyPath | Mapping[str, Any] | CoupleConfig | None" = None
    ) -> None:
        self.directory = as_path(directory)
        self._config = None if config is None else _read(config, str(directory))

    @classmethod
    def of(cls, config: CoupleConfig) -> "PairStore":
        """The store that a config makes, in its `output.dir`."""
        return cls(config.output.dir, config)

    def __repr__(self) -> str:
        return f"PairStore({str(self.directory)!r})"

    @property
    def config(self) -> CoupleConfig:
        """The config of the coupling job: the given one, else what the store has recorded.

        Raises:
            InputError: neither is there.
        """
        if self._config is not None:
            return self._config
        path = self.directory / "config.yaml"
        if not path.is_file():
            raise InputError(f"pair store {str(self.directory)!r}: no config.yaml there; give the job's config")
        return load(CoupleConfig, path)

    @property
    def index(self) -> Index:
        """What the store holds: shape, classes, payload, method, hashes of every shard.

        Raises:
            InputError: the store is not complete.
        """
        return read_index(self.directory)

    def couple(self, on_block: Callable[[dict[str, Any]], None] = lambda report: None) -> Index:
        """Make the store, or complete it: on Ray, or with `cluster.actors: 0` in this process.

        Args:
            on_block: called with the report of every block, as it comes.

        Raises:
            InputError: anything wrong with the config, the data or the directory.
            JobError: a block did not converge or died too often.
        """
        from flowpairs.pipeline.couple import couple

        return couple(self.config, on_block)

    def plan(self) -> "Plan":
        """Forecast seconds, memory and bytes of what is left of the job, from a trial of a few seconds.

        Raises:
            InputError: what `couple` refuses, and a job that memory or disk cannot hold.
        """
        from flowpairs.pipeline.plan import plan

        return plan(self.config)

    def status(self) -> "Status":
        """Read from the files how far the job is: blocks, pairs, bytes, pace, worst marginal error."""
        from flowpairs.pipeline.store.status import read_status

        return read_status(self.directory)

    def verify(self, deep: int = 0, *, import_cost: bool = False) -> "Verdict":
        """Read every byte and hold it against the index; `.faults` lists what is wrong, one sentence each.

        Args:
            deep: how many blocks to compute again and compare bit by bit.
            import_cost: whether `deep` may import a cost that the store's config names as module:function.
        """
        from flowpairs.pipeline.store.verify import verify

        verdict = verify(self.directory)
        if deep and not verdict.faults:
            from flowpairs.pipeline.recompute import recompute

            verdict.faults += recompute(self.directory, deep, import_cost=import_cost)
        return verdict

    def report(self, output: str | AnyPath | None = None) -> AnyPath:
        """Write one HTML page that shows the pairs; returns its path.

        Args:
            output: the file; None: report.html in the store.
        """
        require("a report", "jinja2", "matplotlib")
        from flowpairs.training.report.page import write_report

        return write_report([self.directory], None if output is None else as_path(output))

    @cached_property
    def _pairs(self) -> "PairDataset":
        from flowpairs.training.pairs.dataset import PairDataset

        return PairDataset(self.directory)

    def __len__(self) -> int:
        return self.index.pairs

    def __getitem__(self, which: Any) -> "Tensors":
        return self._pairs[which]


def _read(config: "str | AnyPath | Mapping[str, Any] | CoupleConfig", directory: str) -> CoupleConfig:
    """The config of a job that writes to a directory."""
    if isinstance(config, CoupleConfig):
        return config.model_copy(update={"output": config.output.model_copy(update={"dir": directory})})
    if isinstance(config, Mapping):
        return validate(CoupleConfig, {**config, "output": {**config.get("output", {}), "dir": directory}})
    return load(CoupleConfig, config, [f"output.dir={directory}"])

"""`PairStore`: a pair store as one object; the commands on stores call its methods."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.config import CoupleConfig, load, validate
from flowpairs.pipeline.store.format import Index, read_index

if TYPE_CHECKING:
    from flowpairs.pipeline.couple import OpenRun
    from flowpairs.pipeline.plan import Plan
    from flowpairs.pipeline.solve.job import BlockMaker
    from flowpairs.pipeline.store.status import Status
    from flowpairs.pipeline.store.verify import Verdict
    from flowpairs.training.pairs.dataset import PairDataset
    from flowpairs.training.pairs.reading.shard_batches import Tensors


class PairStore:
    """A pair store in a directory or at a URL, and the coupling job that makes it.

    `len(store)`, `store[i]`, `store[2:8]` and iteration read pairs of a complete store as `PairDataset` does.

    Args:
        directory: the directory or URL of the store, which may be complete or incomplete; with a config it need not
            exist yet.
        config: the config of the coupling job: the path of a YAML file, nested keys and values, or a validated config.
            Its `output.dir` is set to `directory`. None: the config that the store has recorded.

    Raises:
        InputError: a ValueError that names the key, the value and the remedy; also raised by the methods.
    """

    def __init__(
        self, directory: str | AnyPath, config: "str | AnyPath | Mapping[str, Any] | CoupleConfig | None" = None
    ) -> None:
        self.directory = as_path(directory)
        self._config = None if config is None else _read(config, str(directory))

    @classmethod
    def of(cls, config: CoupleConfig) -> "PairStore":
        """Open the store that a config makes, in its `output.dir`.

        Args:
            config: the config of the coupling job.
        """
        return cls(config.output.dir, config)

    def __repr__(self) -> str:
        return f"PairStore({str(self.directory)!r})"

    @property
    def config(self) -> CoupleConfig:
        """The config of the coupling job: the given one, else the one that the store has recorded.

        Raises:
            InputError: there is neither.
        """
        if self._config is not None:
            return self._config
        path = self.directory / "config.yaml"
        if not path.is_file():
            raise InputError(f"pair store {str(self.directory)!r}: no config.yaml there; give the job's config")
        return load(CoupleConfig, path)

    @property
    def index(self) -> Index:
        """The index of the store: shape, classes, payload, method, hashes of every shard.

        Raises:
            InputError: the store is not complete.
        """
        return read_index(self.directory)

    def couple(
        self,
        on_block: Callable[[dict[str, Any]], None] = lambda report: None,
        *,
        extend: bool = False,
        trust: bool = False,
    ) -> Index:
        """Make the store or complete it, on Ray, or in this process with `cluster.actors: 0`.

        Args:
            on_block: a function that is called with the report of each block when the block is done.
            extend: whether a store with fewer pairs than the config asks for may grow; its shards stay as they are.
            trust: whether method reflow may import a network that is a class of whoever made the run.

        Returns:
            The index of the complete store.

        Raises:
            InputError: the config, the data or the directory is invalid.
            JobError: a block did not converge, or its actors died too often.
        """
        from flowpairs.pipeline.couple import couple

        return couple(self.config, on_block, extend=extend, open_run=run_opener(trust=trust))

    def plan(self) -> "Plan":
        """Forecast the seconds, memory and bytes of the rest of the job, from a trial of a few seconds.

        Returns:
            The forecast; times are in seconds and sizes in bytes.

        Raises:
            InputError: `couple` would refuse the job, or memory or disk cannot hold it.
        """
        from flowpairs.pipeline.plan import plan

        return plan(self.config)

    def status(self) -> "Status":
        """Read the progress of the job from the files of the store: blocks, pairs, bytes, pace, worst marginal error.

        Returns:
            The status; times are in seconds and sizes in bytes.

        Raises:
            InputError: the directory holds no pair store.
        """
        from flowpairs.pipeline.store.status import read_status

        return read_status(self.directory)

    def verify(self, deep: int = 0, *, import_cost: bool = False, trust: bool = False) -> "Verdict":
        """Read every byte of the store and compare it with the index.

        Args:
            deep: the number of blocks to compute again and compare bit by bit.
            import_cost: whether `deep` may import a cost that the store's config names as module:function.
            trust: whether `deep` may import a network that is a class of whoever made the run of method reflow.

        Returns:
            The verdict, whose `.faults` lists the faults, one sentence each; it is empty for a sound store.

        Raises:
            InputError: the store is not complete; or, with `deep`, its data set is not where its config says, or its
                cost would have to be imported without permission.
        """
        from flowpairs.pipeline.store.verify import verify

        verdict = verify(self.directory)
        if deep and not verdict.faults:
            from flowpairs.pipeline.recompute import recompute
            from flowpairs.pipeline.store.block_reports import read_blocks

            verdict.recomputed = min(deep, len(read_blocks(self.directory)))
            verdict.faults += recompute(self.directory, deep, import_cost=import_cost, open_run=run_opener(trust=trust))
        return verdict

    def report(self, output: str | AnyPath | None = None) -> AnyPath:
        """Write one HTML page that shows the pairs.

        Args:
            output: the file to write; None: report.html in the store.

        Returns:
            The path of the page.

        Raises:
            InputError: the store is not complete, or the output cannot be a file.
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


def run_opener(*, trust: bool) -> "OpenRun":
    """Return the function that opens the run of a config of method reflow; training is imported when it is called."""

    def open_run(config: CoupleConfig) -> "BlockMaker":
        from flowpairs.training.sampling.reflow import open_flow

        return open_flow(config, trust=trust)

    return open_run


def _read(config: "str | AnyPath | Mapping[str, Any] | CoupleConfig", directory: str) -> CoupleConfig:
    """Read or validate a config, and set its `output.dir` to a directory."""
    if isinstance(config, CoupleConfig):
        return config.model_copy(update={"output": config.output.model_copy(update={"dir": directory})})
    if isinstance(config, Mapping):
        return validate(CoupleConfig, {**config, "output": {**config.get("output", {}), "dir": directory}})
    return load(CoupleConfig, config, [f"output.dir={directory}"])

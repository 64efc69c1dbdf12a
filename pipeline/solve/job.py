"""A coupling job that is ready to run: its inputs are read and checked against its config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from flowpairs.pipeline import config as configs
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.solve.inputs import FeatureSpace, Inputs, feature_space
from flowpairs.pipeline.store.format import CONVENTION, COSTS, IMPORTED, REFLOW, Index, Outline, Shard

SAMPLE = 64  # rows of either side on which a cost that is a formula is tried


@runtime_checkable
class BlockMaker(Protocol):
    """What makes the blocks of a method that draws its data from elsewhere: for method reflow, a trained flow.

    Another part of the program knows how; the job takes it to the processes that solve its blocks.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of what determines the data."""

    @property
    def labelled(self) -> bool:
        """Whether the data have labels."""

    def check(self, shape: tuple[int, ...], num_classes: int | None) -> None:
        """Refuse data that the flow did not learn, by their shape and, once it is known, their number of classes."""

    def solver(self, job: "Job", threads: int, device: str) -> Any:
        """Build the solver of the job's blocks, with the methods of `BlockSolver`."""


@dataclass(frozen=True)
class Job:
    """All that couplings are computed from: a block's shards are a function of this and of the block's number.

    Attributes:
        config: config with the fingerprints of all that was read.
        directory: the pair store; None where nothing is written, as for arrays in memory.
        blocks: division of the job into blocks.
        inputs: what was read.
        features: both sides in the space of the cost, once `with_features` has computed them.
        maker: what makes the blocks, where they are not made of the inputs alone.
    """

    config: CoupleConfig
    directory: AnyPath | None
    blocks: Blocks
    inputs: Inputs
    features: FeatureSpace | None = None
    maker: BlockMaker | None = None

    @property
    def store(self) -> AnyPath:
        """The pair store of a job that writes one."""
        assert self.directory is not None, "a job in memory writes nothing"
        return self.directory

    @property
    def space(self) -> FeatureSpace:
        """The features of a job that has them."""
        assert self.features is not None, "the job needs `with_features` first"
        return self.features

    def with_features(self) -> "Job":
        """Return the job with the features of every id, by the map that its store has recorded or records now.

        Raises:
            InputError: the cost is a formula that does not fit the features.
        """
        if self.features is not None:
            return self
        space = feature_space(self.config, self.inputs, self.directory)
        if (formula := self.config.coupling.formula) is not None:
            from flowpairs.pipeline.solve.draw import check_formula

            check_formula(formula, *space.sample(self.config.source.seed, SAMPLE))
        return replace(self, features=space)

    def index(self, shards: Sequence[Shard]) -> Index:
        """Build the content of `index.json` for this job with these shards."""
        config, target, source, table = self.config, self.inputs.target, self.inputs.source, self.inputs.table
        convention = CONVENTION.format(cost=COSTS.get(config.coupling.cost, config.coupling.cost))
        if table is not None:
            convention = IMPORTED
        elif config.coupling.method == "reflow" and not config.coupling.recouple:
            convention = REFLOW
        payload = config.output.payload
        assert payload != "auto", "the payload is decided before a job is made"
        labelled = self.maker is None or self.maker.labelled
        return Index(
            config_hash=configs.digest(config.determining()),
            data_fingerprint=target.fingerprint,
            pairs=self.blocks.pairs,
            shape=target.rows.shape,
            num_classes=target.num_classes if labelled else 0,
            class_names=target.class_names if labelled else (),
            payload=payload,
            method=config.coupling.method,
            convention=convention,
            shards=tuple(shards),
            weighted=table is not None and table.weights is not None,
            source_fingerprint=None if source is None else source.fingerprint,
            times=() if source is None else source.times,
        )

    def outline(self) -> Outline:
        """Build the outline: what the index will say, before there are shards."""
        found = [(b, len(rows)) for b in range(self.blocks.count) for rows in self.blocks.shards(b).values()]
        return Outline(self.index(()), tuple(found))

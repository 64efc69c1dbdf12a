"""A coupling job that is ready to run: its input was read and held against its config, its directory is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowpairs.pipeline import config as configs
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import cost_matrix
from flowpairs.pipeline.blocks.conditions import read_conditions
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.blocks.imported_pairs import PairTable
from flowpairs.pipeline.blocks.source import SourceData
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data.spec import Target
from flowpairs.pipeline.solve import start as starts
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.format import CONVENTION, COSTS, IMPORTED, Index, Outline, Shard


@dataclass(frozen=True)
class Job:
    """All that couplings are computed from.

    Attributes:
        config: with the fingerprints of all that was read.
        directory: the pair store.
        blocks: the division of the job.
        target: the data.
        source: the source side, where it is data too.
        table: pairs made elsewhere, where the config imports them.
    """

    config: CoupleConfig
    directory: AnyPath
    blocks: Blocks
    target: Target
    source: SourceData | None = None
    table: PairTable | None = None

    def arrays(self) -> tuple[Any, ...]:
        """What a `Coupler` takes behind its number of threads, in order."""
        config, target, source = self.config, self.target, self.source
        features = resume.store_features(config, self.directory, target.x, source)
        of_data = features.of_data(target.x, flips=config.data.flips)
        of_source = None
        if source is not None:
            of_source = of_data if source.x is target.x else features.of_data(source.x, flips=source.flips)
        given = read_conditions(config.coupling, target)
        start = starts.start_potentials(config, self.blocks, target, of_data)
        costs = cost_matrix.load_cost_matrix(config.coupling, self.blocks, source)
        both = (features, target.x, target.labels, of_data, self.table, given, start)
        return (*both, target.weights, source, of_source, costs)

    def index(self, shards: Sequence[Shard]) -> Index:
        """What `index.json` says of the job, with these shards."""
        target, config, table = self.target, self.config, self.table
        convention = CONVENTION.format(cost=COSTS.get(config.coupling.cost, config.coupling.cost))
        return Index(
            config_hash=configs.digest(config.determining()),
            data_fingerprint=target.fingerprint,
            pairs=self.blocks.pairs,
            shape=tuple(target.x.shape[1:]),
            num_classes=target.num_classes,
            payload=config.output.payload,
            method=config.coupling.method,
            convention=convention if table is None else IMPORTED,
            shards=tuple(shards),
            weighted=table is not None and table.weights is not None,
            source_fingerprint=None if self.source is None else self.source.fingerprint,
            times=() if self.source is None else self.source.times,
        )

    def outline(self) -> Outline:
        """What the index will say, before there are shards."""
        found = [(b, len(rows)) for b in range(self.blocks.count) for rows in self.blocks.shards(b).values()]
        return Outline(self.index(()), tuple(found))

"""One block from start to end: features of its rows, coupling, partners, shards. No Ray here: actor.py runs it.

Solving and writing are apart, so that one block is written while the next one is solved. A block's shards are a pure
function of (config, data, block); the actor that happens to compute it adds nothing.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.atomic import write_array
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.blocks.features import Features, gather
from flowpairs.pipeline.blocks.imported_pairs import PairTable, imported_report
from flowpairs.pipeline.blocks.source import SourceData, weights_of
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.solve import checkpoint
from flowpairs.pipeline.solve import start as starts
from flowpairs.pipeline.store.format import pairs_per_record
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.writer import write_shard

if TYPE_CHECKING:
    from flowpairs.pipeline.ot import Coupling, Problem
    from flowpairs.pipeline.ot.tiles.partition import Team
    from flowpairs.pipeline.solve.assignment import RowAssigner
    from flowpairs.pipeline.solve.potentials import Potentials


@dataclass(frozen=True)
class SolvedBlock:
    """A block that is ready to be written.

    Attributes:
        block: its number.
        report: of its coupling, a row of blocks.parquet.
        pairs: one a source row; of the last block, as many of them as the job needs are written.
        g: the target potential, where the method has one.
    """

    block: int
    report: dict[str, Any]
    pairs: PairTable
    g: Float64[np.ndarray, " m"] | None


class BlockSolver:
    """Computes blocks; built once per actor, after Ray has decided which devices it sees.

    Args:
        config: the job.
        directory: the pair store.
        blocks: the division of the job.
        threads: CPU cores that this process was given.
        features: the map into the space of the cost.
        x: all data, without mirror images.
        labels: one per datum, or None.
        data_features: features of every data id.
        table: pairs made elsewhere, where the config imports them.
        conditions: of a semi-discrete coupling, whose potentials are in `directory`.
        start: potentials that blocks start from, one a data id, where the config names a store that has them.
        weights: of the data in their marginal, where they do not all count alike.
        source: the source side, where it is data; source_features: of every source id.
        matrix: the costs that the config gives, source ids by data ids.
    """

    def __init__(
        self,
        config: CoupleConfig,
        directory: AnyPath,
        blocks: Blocks,
        threads: int,
        features: Features,
        x: Float32[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"] | None,
        data_features: Float32[np.ndarray, "ids k"],
        table: PairTable | None = None,
        conditions: Conditions | None = None,
        start: Float64[np.ndarray, " ids"] | None = None,
        weights: Float64[np.ndarray, " N"] | None = None,
        source: SourceData | None = None,
        source_features: Float32[np.ndarray, "ids0 k"] | None = None,
        matrix: Float32[np.ndarray, "ids0 ids"] | None = None,
    ) -> None:
        import torch

        from flowpairs.pipeline.ot.tiles.partition import SINGLE

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.team: "Team" = SINGLE  # changed by an actor that is not
        self.config, self.directory, self.blocks, self.features = config, directory, blocks, features
        self.x, self.labels, self.data_features, self.table = x, labels, data_features, table
        self.conditions, self.start, self.weights = conditions, start, weights
        self.source, self.source_features, self.matrix = source, source_features, matrix
        self._solved: dict[int | None, Coupling] = {}  # of problems that blocks share, by `Blocks.same`

    def solve(self, block: int) -> SolvedBlock:
        """Couple a block and draw its pairs, match its rows, or take its pairs from the table."""
        if self.table is not None:
            report, pairs, g = self._take(self.table, block)
        elif self.config.coupling.method == "semidiscrete":
            report, pairs, g = self._match(block)
        else:
            report, pairs, g = self._couple(block)
        return SolvedBlock(block, {"block": block, **report}, pairs, g)

    def write(self, solved: SolvedBlock) -> dict[str, Any]:
        """Write a block's shards; returns its report when they are on disk.

        Nothing is written when the coupling did not converge and the config does not accept that.
        """
        block, pairs = solved.block, solved.pairs
        checkpoint.remove_checkpoint(checkpoint.checkpoint_file(self.directory, block))
        if solved.report["converged"] or self.config.coupling.on_unconverged == "record":
            if solved.g is not None:
                write_array(starts.block_file(self.directory, block), solved.g)
            for number, rows in self.blocks.shards(block).items():
                first = None if pairs.rows is None else int(pairs.rows[rows.start])
                records = self._records(block, pairs, rows)
                write_shard(self.directory, number, block, records, first, solved.report, self.config.output.payload)
        return solved.report

    def _couple(self, block: int) -> tuple[dict[str, Any], PairTable, Float64[np.ndarray, " m"] | None]:
        """The coupling's report, its pairs, and the target potential."""
        from flowpairs.pipeline.solve import draw

        blocks, seed = self.blocks, self.config.source.seed
        n, first, backward = blocks.n, blocks.first_row(block), self.config.sampling.direction == "backward"
        started = time.perf_counter()
        # Warm starts make the first of equal problems end elsewhere, within the tolerance, than the others.
        same = None if self.config.coupling.warm_start else blocks.same(block)
        coupling = self._solved.get(same) or self._coupling(block)
        if same is not None:
            self._solved[same] = coupling
        sides = coupling.problem.weights()
        drawn_for, drawn = sides[::-1] if backward else sides
        rows = None
        if backward or self.source is not None:
            u = float(noise.uniforms(seed, noise.Stream.ROWS, block, 1)[0])
            order = noise.permutation(seed, noise.Stream.ROWS, n, high=block + 1)
            rows = draw.allot_rows(drawn_for.cpu().numpy(), n, u, order)
        uniforms = noise.uniforms(seed, noise.Stream.DRAW, first, n)
        found = draw.draw_pairs(coupling, uniforms, rows, self._order(block, len(drawn)), backward=backward)
        report = dataclasses.asdict(coupling.report) | {"seconds": time.perf_counter() - started}
        g = None if coupling.g is None else coupling.g.double().cpu().numpy()
        return report, self._pairs(block, *found), g

    def _coupling(self, block: int) -> "Coupling":
        """The coupling of the block's two sides."""
        from flowpairs.pipeline.solve import draw

        g0 = None if self.start is None else self.start[self.blocks.data_ids(block)]
        if self.config.coupling.warm_start and block not in self.blocks.seeds:
            g0 = starts.start(self.directory, self.blocks, block, self.data_features)
        path = checkpoint.checkpoint_file(self.directory, block)
        return draw.solve_block(
            self.config.coupling,
            self._problem(block),
            g0=self._sent(g0),
            team=self.team,
            resume=checkpoint.load_checkpoint(path),
            save=checkpoint.checkpoint_writer(path, self.config.cluster.checkpoint_seconds, self.team),
        )

    def _problem(self, block: int) -> "Problem":
        """The block's two sides in the space of the cost, and their weights."""
        from flowpairs.pipeline.ot.tiles.partition import RowPartition
        from flowpairs.pipeline.solve import draw

        ids = self.blocks.data_ids(block)
        x1, b = self._sent(self.data_features[ids]), self._sent(weights_of(self.weights, ids))
        if self.source is None:
            x0 = self._sent(self._noise(self.blocks.first_row(block), self.blocks.n, len(ids)))
            x0 = RowPartition(len(x0), len(x1), x0.device, self.team).gather(x0)
            return draw.build_problem(self.config.coupling, x0, x1, None, b)
        assert self.source_features is not None
        sources = self.blocks.source_ids(block)
        x0, a = self._sent(self.source_features[sources]), self._sent(weights_of(self.source.weights, sources))
        costs = None if self.matrix is None else self._sent(self.matrix[np.ix_(sources, ids)])
        return draw.build_problem(self.config.coupling, x0, x1, a, b, costs)

    def _sent(self, array: np.ndarray | None) -> Any:
        """An array as a tensor on this actor's device."""
        import torch

        return None if array is None else torch.from_numpy(array).to(self.device)

    def _pairs(self, block: int, rows: Int64[np.ndarray, " n"], partners: Int64[np.ndarray, " n"]) -> PairTable:
        """Which source row or datum meets which datum."""
        ids = self.blocks.data_ids(block)[partners]
        if self.source is None:
            return PairTable(ids, self.blocks.first_row(block) + rows, None)
        return PairTable(ids, None, None, source_ids=self.blocks.source_ids(block)[rows])

    def _order(self, block: int, count: int) -> Int64[np.ndarray, " m"] | None:
        """The random order of a block's data by which a balanced draw rounds; None for a categorical one."""
        if self.config.sampling.draw != "balanced":
            return None
        return noise.permutation(self.config.source.seed, noise.Stream.BALANCE, count, high=block)

    def _match(self, block: int) -> tuple[dict[str, Any], PairTable, None]:
        """The block's rows with their partners, and its report."""
        from flowpairs.pipeline.solve.assignment import assignment_report as matching_report

        potentials, matcher = self._matcher
        started = time.perf_counter()
        first, count = self.blocks.first_row(block), self.blocks.pairs_of(block)
        x0 = noise.gaussian(self.config.source.seed, first, count, int(np.prod(self.x.shape[1:])))
        matched = matcher.match(first, x0, self._order(block, self.blocks.ids))
        coupled = imported_report(matched.x, self.data_features[matched.ids], self.blocks.ids)
        row = matching_report(matcher, potentials, first, matched, coupled)
        row["seconds"] = time.perf_counter() - started
        return row, PairTable(matched.ids, np.arange(first, first + count), None), None

    @cached_property
    def _matcher(self) -> "tuple[Potentials, RowAssigner]":
        from flowpairs.pipeline.solve import potentials
        from flowpairs.pipeline.solve.assignment import RowAssigner

        assert self.conditions is not None
        found, seed = potentials.load_potentials(self.directory), self.config.source.seed
        return found, RowAssigner(seed, self.features, self.data_features, self.conditions, found, self.device)

    def _noise(self, first: int, n: int, m: int) -> Float32[np.ndarray, "n k"]:
        """Features of a block's noise; with a team, of this member's share of it."""
        import torch

        from flowpairs.pipeline.ot.tiles.partition import RowPartition

        share = RowPartition(n, m, torch.device(self.device), self.team)
        x0 = np.zeros((n, self.features.dim), np.float32)
        for k in share.mine:  # section by section, whoever owns it: the same products in the same bits
            rows = share.sections[k]
            x0[rows] = self.features.of_noise(self.config.source.seed, first + rows.start, rows.stop - rows.start)
        return x0

    def _take(self, table: PairTable, block: int) -> tuple[dict[str, Any], PairTable, None]:
        """The block's part of the table, and its costs."""
        first = self.blocks.first_row(block)
        pairs = table[first : first + self.blocks.pairs_of(block)]
        x0 = pairs.side(self.config.source.seed, self.x.shape[1:]).reshape(len(pairs.data_ids), -1)
        return imported_report(x0, self.data_features[pairs.data_ids], len(np.unique(pairs.data_ids))), pairs, None

    def _records(self, block: int, pairs: PairTable, rows: range) -> Iterator[Record]:
        """The pairs of some of the block's rows, a record at a time: noise is made again rather than kept."""
        shape, leg = self.x.shape[1:], self.blocks.leg(block)
        payload, seed = self.config.output.payload, self.config.source.seed
        step = pairs_per_record(shape, payload)
        for start in range(rows.start, rows.stop, step):
            part = pairs[start : min(start + step, rows.stop)]
            chosen = part.data_ids
            yield Record(
                first_row=start,
                x0=self._x0(part) if payload == "full" else None,
                x1=None if payload == "ids" else gather(self.x, chosen),
                data_ids=chosen,
                labels=None if self.labels is None else self.labels[chosen % len(self.x)],
                seed=None if part.rows is None else seed,
                rows=part.rows,
                weights=part.weights,
                source_ids=part.source_ids,
                span=None if leg is None else leg.span,
            )

    def _x0(self, part: PairTable) -> Float32[np.ndarray, "k ..."]:
        """The source side of some pairs."""
        if part.source_ids is not None:
            assert self.source is not None
            return gather(self.source.x, part.source_ids)
        return part.side(self.config.source.seed, self.x.shape[1:])

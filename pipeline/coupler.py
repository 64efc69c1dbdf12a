"""One block from start to end: features of its rows, coupling, partners, shards. No Ray here: actor.py runs it.

Solving and writing are apart, so that one block is written while the next one is solved. A block's shards are a pure
function of (config, data, block); the actor that happens to compute it adds nothing.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from pipeline import known, noise, trail
from pipeline.blocks import Blocks
from pipeline.conditions import Conditions
from pipeline.config import CoupleConfig
from pipeline.features import Features, gather
from pipeline.files import write_array
from pipeline.place import Place
from pipeline.store.format import pairs_per_record
from pipeline.store.records import Record
from pipeline.store.writer import write_shard
from pipeline.table import Table, report

if TYPE_CHECKING:
    from pipeline.matching import Matcher
    from pipeline.ot.share import Team
    from pipeline.potentials import Potentials


@dataclass(frozen=True)
class Solved:
    """A block that is ready to be written.

    Attributes:
        block: its number.
        report: of its coupling, a row of blocks.parquet.
        pairs: one a source row; of the last block, as many of them as the job needs are written.
        g: the target potential, where the method has one.
    """

    block: int
    report: dict[str, Any]
    pairs: Table
    g: Float64[np.ndarray, " m"] | None


class Coupler:
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
    """

    def __init__(
        self,
        config: CoupleConfig,
        directory: Place,
        blocks: Blocks,
        threads: int,
        features: Features,
        x: Float32[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"] | None,
        data_features: Float32[np.ndarray, "ids k"],
        table: Table | None = None,
        conditions: Conditions | None = None,
        start: Float64[np.ndarray, " ids"] | None = None,
    ) -> None:
        import torch

        from pipeline.ot.share import ALONE

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.team: "Team" = ALONE  # changed by an actor that is not
        self.config, self.directory, self.blocks, self.features = config, directory, blocks, features
        self.x, self.labels, self.data_features, self.table = x, labels, data_features, table
        self.conditions, self.start = conditions, start

    def solve(self, block: int) -> Solved:
        """Couple a block and draw its pairs, match its rows, or take its pairs from the table."""
        if self.table is not None:
            report, pairs, g = self._take(self.table, block)
        elif self.config.coupling.method == "semidiscrete":
            report, pairs, g = self._match(block)
        else:
            report, pairs, g = self._couple(block)
        return Solved(block, {"block": block, **report}, pairs, g)

    def write(self, solved: Solved) -> dict[str, Any]:
        """Write a block's shards; returns its report when they are on disk.

        Nothing is written when the coupling did not converge and the config does not accept that.
        """
        block, pairs = solved.block, solved.pairs
        trail.remove(trail.of_block(self.directory, block))
        if solved.report["converged"] or self.config.coupling.on_unconverged == "record":
            if solved.g is not None:
                write_array(known.file(self.directory, block), solved.g)
            for number, rows in self.blocks.shards(block).items():
                first = None if pairs.rows is None else int(pairs.rows[rows.start])
                records = self._records(pairs, rows)
                write_shard(self.directory, number, block, records, first, solved.report, self.config.output.payload)
        return solved.report

    def _couple(self, block: int) -> tuple[dict[str, Any], Table, Float64[np.ndarray, " m"] | None]:
        """The coupling's report, a pair per source row, and the target potential."""
        from pipeline.draw import draw_partners

        ids = self.blocks.data_ids(block)
        seed, n, first = self.config.source.seed, self.blocks.n, self.blocks.first_row(block)
        uniforms = noise.uniforms(seed, noise.Stream.DRAW, first, n)
        x1 = self.data_features[ids]
        g0 = None if self.start is None else self.start[ids]
        if self.config.coupling.warm_start and block not in self.blocks.seeds:
            g0 = known.start(self.directory, self.blocks, block, self.data_features)
        report, partners, g = draw_partners(
            self.config.coupling,
            self._source(first, n, len(ids)),
            x1,
            uniforms,
            self._order(block, len(ids)),
            self.device,
            g0=g0,
            team=self.team,
            resume=trail.load(trail.of_block(self.directory, block)),
            save=trail.saver(trail.of_block(self.directory, block), self.config.cluster.checkpoint_seconds, self.team),
        )
        return report, Table(ids[partners], np.arange(first, first + n), None), g

    def _order(self, block: int, count: int) -> Int64[np.ndarray, " m"] | None:
        """The random order of a block's data by which a balanced draw rounds; None for a categorical one."""
        if self.config.sampling.draw != "balanced":
            return None
        return noise.permutation(self.config.source.seed, noise.Stream.BALANCE, count, high=block)

    def _match(self, block: int) -> tuple[dict[str, Any], Table, None]:
        """The block's rows with their partners, and its report."""
        from pipeline.matching import report as matching_report

        potentials, matcher = self._matcher
        started = time.perf_counter()
        first, count = self.blocks.first_row(block), self.blocks.pairs_of(block)
        x0 = noise.gaussian(self.config.source.seed, first, count, int(np.prod(self.x.shape[1:])))
        matched = matcher.match(first, x0, self._order(block, self.blocks.ids))
        coupled = report(matched.x, self.data_features[matched.ids], self.blocks.ids)
        row = matching_report(matcher, potentials, first, matched, coupled)
        row["seconds"] = time.perf_counter() - started
        return row, Table(matched.ids, np.arange(first, first + count), None), None

    @cached_property
    def _matcher(self) -> "tuple[Potentials, Matcher]":
        from pipeline import potentials
        from pipeline.matching import Matcher

        assert self.conditions is not None
        found, seed = potentials.load(self.directory), self.config.source.seed
        return found, Matcher(seed, self.features, self.data_features, self.conditions, found, self.device)

    def _source(self, first: int, n: int, m: int) -> Float32[np.ndarray, "n k"]:
        """Features of the block's source rows; with a team, of this member's share of them."""
        import torch

        from pipeline.ot.share import Share

        share = Share(n, m, torch.device(self.device), self.team)
        x0 = np.zeros((n, self.features.dim), np.float32)
        for k in share.mine:  # section by section, whoever owns it: the same products in the same bits
            rows = share.sections[k]
            x0[rows] = self.features.of_noise(self.config.source.seed, first + rows.start, rows.stop - rows.start)
        return x0

    def _take(self, table: Table, block: int) -> tuple[dict[str, Any], Table, None]:
        """The block's part of the table, and its costs."""
        first = self.blocks.first_row(block)
        pairs = table[first : first + self.blocks.pairs_of(block)]
        x0 = pairs.side(self.config.source.seed, self.x.shape[1:]).reshape(len(pairs.data_ids), -1)
        return report(x0, self.data_features[pairs.data_ids], len(np.unique(pairs.data_ids))), pairs, None

    def _records(self, pairs: Table, rows: range) -> Iterator[Record]:
        """The pairs of some of the block's rows, a record at a time: noise is made again rather than kept."""
        shape = self.x.shape[1:]
        payload, seed = self.config.output.payload, self.config.source.seed
        step = pairs_per_record(shape, payload)
        for start in range(rows.start, rows.stop, step):
            part = pairs[start : min(start + step, rows.stop)]
            chosen = part.data_ids
            yield Record(
                first_row=start,
                x0=part.side(seed, shape) if payload == "full" else None,
                x1=None if payload == "ids" else gather(self.x, chosen),
                data_ids=chosen,
                labels=None if self.labels is None else self.labels[chosen % len(self.x)],
                seed=None if part.rows is None else seed,
                rows=part.rows,
                weights=part.weights,
            )

"""One block from start to end: features of its rows, coupling, partners, shards. No Ray here: actor.py runs it.

A block's shards are a pure function of (config, data, block); the actor that happens to compute it adds nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from pipeline import noise
from pipeline.blocks import Blocks
from pipeline.config import CoupleConfig
from pipeline.features import Features, gather
from pipeline.files import write_array
from pipeline.store.format import pairs_per_record
from pipeline.store.records import Record
from pipeline.store.writer import write_shard


class Coupler:
    """Computes blocks; built once per actor, after Ray has decided which devices it sees.

    Args:
        config: the job.
        directory: the pair store.
        blocks: the division of the job.
        features: the map into the space of the cost.
        x: all data, without mirror images.
        labels: one per datum, or None.
        data_features: features of every data id.
        threads: CPU cores that this process was given.
    """

    def __init__(
        self,
        config: CoupleConfig,
        directory: Path,
        blocks: Blocks,
        features: Features,
        x: Float32[np.ndarray, "N ..."],
        labels: Int64[np.ndarray, " N"] | None,
        data_features: Float32[np.ndarray, "ids k"],
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config, self.directory, self.blocks, self.features = config, directory, blocks, features
        self.x, self.labels, self.data_features = x, labels, data_features

    def couple(self, block: int) -> dict[str, Any]:
        """Solve a block, draw its pairs and write its shards; returns the block's report.

        Nothing is written when the coupling did not converge and the config does not accept that.
        """
        ids = self.blocks.data_ids(block)
        report, partners, g = self._solve(block, ids)
        row = {"block": block, **report}
        if row["converged"] or self.config.coupling.on_unconverged == "record":
            if g is not None:
                write_array(self.directory / "potentials" / f"b{block:06d}.npy", g)
            for number, rows in self.blocks.shards(block).items():
                first = self.blocks.first_row(block) + rows.start
                records = self._records(block, ids[partners], rows)
                write_shard(self.directory, number, block, records, first, row, self.config.output.payload)
        return row

    def _solve(
        self, block: int, ids: Int64[np.ndarray, " m"]
    ) -> tuple[dict[str, Any], Int64[np.ndarray, " n"], Float64[np.ndarray, " m"] | None]:
        """The coupling's report, one partner per source row (a place in `ids`), and the target potential."""
        from pipeline.draw import draw_partners

        seed, n, first = self.config.source.seed, self.blocks.n, self.blocks.first_row(block)
        uniforms = noise.uniforms(seed, noise.Stream.DRAW, first, n)
        balanced = self.config.sampling.draw == "balanced"
        order = noise.permutation(seed, noise.Stream.BALANCE, len(ids), high=block) if balanced else None
        x0, x1 = self.features.of_noise(seed, first, n), self.data_features[ids]
        return draw_partners(self.config.coupling, x0, x1, uniforms, order, self.device)

    def _records(self, block: int, ids: Int64[np.ndarray, " n"], rows: range) -> Iterator[Record]:
        """The pairs of some of the block's rows, a record at a time: noise is made again rather than kept."""
        shape = self.x.shape[1:]
        dim = int(np.prod(shape))
        payload, seed = self.config.output.payload, self.config.source.seed
        step = pairs_per_record(shape, payload)
        for start in range(rows.start, rows.stop, step):
            count = min(step, rows.stop - start)
            counter = self.blocks.first_row(block) + start
            chosen = ids[start : start + count]
            yield Record(
                first_row=start,
                x0=noise.gaussian(seed, counter, count, dim).reshape(count, *shape) if payload == "full" else None,
                x1=None if payload == "ids" else gather(self.x, chosen),
                data_ids=chosen,
                labels=None if self.labels is None else self.labels[chosen % len(self.x)],
                seed=seed,
                rows=np.arange(counter, counter + count),
            )

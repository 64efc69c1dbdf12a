"""Computing some blocks of a finished store again, to hold its bytes against what the config and the data determine."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from flowpairs.pipeline import data
from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import source
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.blocks.imported_pairs import read_table
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.config.coupling import NAMED
from flowpairs.pipeline.solve import potentials, start
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store import format


def recompute(directory: AnyPath, count: int, *, import_cost: bool = False) -> list[str]:
    """Couple `count` evenly spaced blocks again; a sentence for every shard that comes out otherwise.

    Args:
        directory: the pair store.
        count: of blocks.
        import_cost: whether a function that the store's config names as its cost may be imported and run.

    Raises:
        InputError: the data set is not where the store's config says, no store is there, or its cost is a function
            that may not be imported.
    """
    index, config = format.read_index(directory), load(CoupleConfig, directory / "config.yaml")
    if not import_cost and config.coupling.cost not in NAMED:
        raise InputError(
            f"coupling.cost={config.coupling.cost!r} of {directory}: code that the store names would be imported and "
            "run; give --import-cost if you trust it"
        )
    spec = data.check_data(config.data)
    source_spec = source.check(config, spec)
    connect()
    target = data.read_data(config.data, spec)
    other = source.read_source(config, source_spec, target)
    if target.fingerprint != index.data_fingerprint or target.columns_fingerprint != config.data.columns_fingerprint:
        return [f"data.path={config.data.path!r}: no longer the data that were coupled; nothing was compared"]
    table = None if config.coupling.table is None else read_table(config.coupling.table, index.shape)
    if table is not None and table.fingerprint() != config.coupling.table_fingerprint:
        return [f"coupling.table={config.coupling.table!r}: no longer the pairs imported; nothing was compared"]
    blocks = divide(config, len(target.x), other)
    recorded, faults = {shard.name: shard for shard in index.shards}, []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for part in ("shards", "potentials"):
            (scratch / part).mkdir()
        kept: list[tuple[AnyPath, AnyPath]] = [(directory / "features.npz", scratch / "features.npz")]
        if config.coupling.warm_start:
            kept += [(start.block_file(directory, seed), start.block_file(scratch, seed)) for seed in blocks.seeds]
        for there, here in kept:
            write_atomically(here, there.read_bytes())
        if config.coupling.method == "semidiscrete":  # potentials are taken as they are, and rows matched again
            potentials.copy_potentials(directory, scratch)
        job = Job(config, scratch, blocks, target, other, table)
        coupler = BlockSolver(config, scratch, blocks, 1, *job.arrays())
        for block in sorted({int(b) for b in np.linspace(0, blocks.count - 1, count)}):
            coupler.write(coupler.solve(block))
            for number in blocks.shards(block):
                name = format.shard_name(number)
                again = format.read_sidecar(format.sidecar_path(scratch, name)).shard
                if again != recorded[name]:
                    differing = [
                        f"{f.name} {getattr(recorded[name], f.name)} there, {getattr(again, f.name)} computed again"
                        for f in dataclasses.fields(again)
                        if getattr(again, f.name) != getattr(recorded[name], f.name)
                    ]
                    faults.append(f"{name}: {'; '.join(differing)}")
                (scratch / "shards" / name).unlink()
    return faults

"""Recomputation of some blocks of a finished store, to compare its bytes to what its config and data determine."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.base.atomic import copy_file
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.blocks.feature_store import MAP
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.cluster.executor import shape_for, uses_ray
from flowpairs.pipeline.config import ClusterConfig, CoupleConfig, DataConfig, load, pin
from flowpairs.pipeline.couple import OpenRun, maker_of
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import is_small, make_target, read_small
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.solve.block_solver import build_solver
from flowpairs.pipeline.solve.device_memory import device_name
from flowpairs.pipeline.solve.inputs import Inputs, Side, gather_inputs, survey_inputs
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.potential_files import copy_potentials


def recompute(
    directory: AnyPath, count: int, *, import_cost: bool = False, open_run: OpenRun | None = None
) -> list[str]:
    """Couple `count` evenly spaced blocks again; return a sentence for every shard that differs.

    Args:
        directory: the pair store.
        count: number of blocks.
        import_cost: whether a function that the store's config names as its cost may be imported and run.
        open_run: opens the trained flow of method reflow, as for `couple`.

    Raises:
        InputError: a GPU of another kind made the blocks, the data set or the run is not where the store's config says,
            no store is there, or its cost is a function that may not be imported.
    """
    index, config = format.read_index(directory), load(CoupleConfig, directory / "config.yaml")
    if config.coupling.imports_cost and not import_cost:
        raise InputError(
            f"coupling.cost={config.coupling.cost!r} of {directory}: code that the store names would be imported and "
            "run; give --import-cost if you trust it"
        )
    maker = maker_of(config, open_run)
    recorded, faults = {shard.name: shard for shard in index.shards}, []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        try:
            inputs = _inputs(config, index, directory, scratch)
            if maker is not None:
                pin(config, {"coupling.run_fingerprint": maker.fingerprint})
        except InputError as error:
            return [f"{error}; nothing was compared"]
        blocks = divide(config, len(inputs.target), inputs.source)
        for part in ("shards", "potentials", "features", "source_features"):
            (scratch / part).mkdir()
        copy_file(directory / "features" / MAP, scratch / "features" / MAP)
        for side in ("features", "source_features"):
            if not row_set.lost_files(directory / side):
                row_set.copy_set(directory / side, scratch / side)
        if config.coupling.method == "semidiscrete":  # potentials are taken as they are; the assignment is repeated
            copy_potentials(directory, scratch)
        chosen = sorted({int(b) for b in np.linspace(0, blocks.count - 1, count)})
        reports = {row["block"]: row for row in read_blocks(directory)}
        here = shape_for(ClusterConfig(actors=0), 1).gpus
        devices = {block: device_of(reports[block], device_name("cuda") if here else None) for block in chosen}
        job = Job(config, scratch, blocks, inputs, maker=maker).with_features()
        solvers = {device: build_solver(job, 1, device) for device in set(devices.values())}
        for block in chosen:
            solver = solvers[devices[block]]
            solver.write(solver.solve(block))
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


def device_of(report: dict[str, Any], gpu: str | None) -> str:
    """Choose the device on which a block has the bytes that it was written with: of the kind that made it.

    Args:
        report: report of the block; stores of earlier versions do not say the device.
        gpu: name of this machine's GPU, None where it has none.

    Raises:
        InputError: another GPU made the block than this machine has.
    """
    made_by = report.get("device") or gpu or "cpu"
    if made_by not in ("cpu", gpu):
        raise InputError(
            f"block {report['block']}: made on {made_by} by torch {report['torch']}, and only a GPU of that kind has "
            f"its bits again; this machine has {gpu or 'none'}: run verify --deep on one that has"
        )
    return "cpu" if made_by == "cpu" else "cuda"


def _inputs(config: CoupleConfig, index: format.Index, directory: AnyPath, scratch: Path) -> Inputs:
    """Take the rows that the store keeps, or read the data again where it has none; and all other inputs."""
    surveyed = survey_inputs(config)
    if uses_ray(config.cluster):
        connect()

    def read(part: DataConfig, spec: DataSpec, side: Side) -> Target:
        where = format.rows_directory(directory, side)
        if not row_set.lost_files(where):
            return row_set.open_target(where)
        if is_small(spec):
            return read_small(part, spec)
        return make_target(
            part, spec, format.rows_directory(scratch, side), by_ray=uses_ray(config.cluster), final=False
        )

    inputs = gather_inputs(config, surveyed, read)
    target, table = inputs.target, inputs.table
    if target.fingerprint != index.data_fingerprint or target.columns_fingerprint != config.data.columns_fingerprint:
        raise InputError(f"data.path={config.data.path!r}: no longer the data that were coupled")
    if table is not None and table.fingerprint() != config.coupling.table_fingerprint:
        raise InputError(f"coupling.table={config.coupling.table!r}: no longer the pairs imported")
    return inputs

"""The coupling job: checks the input, reads the data, solves the blocks, writes the index last.

Run again, the job continues where it stopped: a block whose shards all have their sidecars is not computed again, and
recomputed blocks have the same bits. With `cluster.actors: 0` the whole job runs in the calling process.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import owned
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import counted, print_line
from flowpairs.pipeline.base.progress import progress, remaining, working
from flowpairs.pipeline.blocks.division import Blocks, divide
from flowpairs.pipeline.blocks.imported_pairs import PairTable, check_table
from flowpairs.pipeline.blocks.source import SourceData
from flowpairs.pipeline.cluster.executor import blocks_of, job_metrics, shape_for, uses_ray
from flowpairs.pipeline.config import CoupleConfig, check_cost, pin
from flowpairs.pipeline.data import describe
from flowpairs.pipeline.solve.inputs import Inputs, Survey, read_inputs, save_inputs, survey_inputs
from flowpairs.pipeline.solve.job import BlockMaker, Job
from flowpairs.pipeline.store import format, resume
from flowpairs.pipeline.store.block_reports import write_blocks

OnBlock = Callable[[dict[str, Any]], None]
OpenRun = Callable[[CoupleConfig], BlockMaker]


def couple(
    config: CoupleConfig,
    on_block: OnBlock = lambda report: None,
    *,
    extend: bool = False,
    open_run: OpenRun | None = None,
) -> format.Index:
    """Make the pair store that `config` describes, or complete it.

    Args:
        config: the job.
        on_block: called with the report of each computed block, as it is finished.
        extend: whether a store with fewer pairs may grow; its shards stay as they are.
        open_run: opens the trained flow of method reflow, which this folder knows nothing of.

    Raises:
        InputError: anything wrong with the config, the data or the output directory, found before Ray starts, or a
            directory that another process writes to.
        JobError: a block did not converge or died too often.
    """
    check_cost(config)
    directory = as_path(config.output.dir)
    if finished := resume.find_complete(config, directory, extend=extend):
        print_line(f"{directory}: complete already; nothing is computed", sys.stderr)
        return finished
    maker = maker_of(config, open_run)
    config, surveyed = survey_job(config, maker)
    inputs = None
    if surveyed.small:  # so that what is wrong with data or sizes is found before anything is written
        with working("reading the data"):
            inputs = read_inputs(config, surveyed, None)
        check_cluster(config, assemble(config, inputs, maker, extend=extend).blocks)
    with owned(directory.resolve(), resume.output_key(directory), "flowpairs couple"):
        if inputs is None:
            resume.prepare_store(config, directory)
            inputs = read_inputs(config, surveyed, directory.resolve(), final=resume.has_results(directory))
        job = assemble(config, inputs, maker, extend=extend)
        check_cluster(config, job.blocks)
        resume.prepare_store(job.config, job.store)
        job = replace(job, inputs=save_inputs(job.inputs, job.store))
        format.write_outline(job.store, job.outline())
        return carry_out(job, on_block)


def maker_of(config: CoupleConfig, open_run: OpenRun | None) -> BlockMaker | None:
    """Open what makes the blocks of a job: a trained flow for method reflow, nothing for the others.

    Raises:
        InputError: it cannot be opened, or the caller knows no flows.
    """
    if config.coupling.method != "reflow":
        return None
    if open_run is None:
        raise InputError(
            "coupling.method='reflow': the samples of a network, which this function does not draw; run "
            "`flowpairs couple`, or `couple` of flowpairs.PairStore"
        )
    return open_run(config)


def check_inputs(config: CoupleConfig, maker: BlockMaker | None = None) -> tuple[CoupleConfig, Survey, Blocks | None]:
    """Check the inputs without Ray.

    Returns: the config with its payload decided, the inputs' survey, and the division of the job if it is known before
        the data are read.

    Raises:
        InputError: as `couple`.
    """
    refuse_output_among_data(config)
    surveyed = survey_inputs(config)
    if maker is not None:
        maker.check(surveyed.target.shape, None)
    found_again = maker is None and (surveyed.table is None or surveyed.table.x0 is None)
    directory = as_path(config.output.dir)
    config = resume.settle_payload(config, directory, surveyed.target.shape, noise=found_again)
    rows = None if config.two_sided else surveyed.target.rows
    return config, surveyed, None if rows is None else check_sizes(config, rows, surveyed.table)


def refuse_output_among_data(config: CoupleConfig) -> None:
    """Refuse an output directory in a folder of data, where the next job would read what this one writes.

    Raises:
        InputError: it lies there.
    """
    directory = as_path(config.output.dir)
    given = {"data.path": config.data.path, "source.path": getattr(config.source, "path", None)}
    for key, path in given.items():
        where = None if path in (None, "digits") else as_path(path, key)
        if not isinstance(where, Path) or not isinstance(directory, Path):
            continue
        is_folder = os.path.isdir(where)  # noqa: PTH112 - pathlib raises where it may not look
        if is_folder and Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(where)):
            raise InputError(
                f"{resume.output_key(directory)}: lies in {key}={path!r}, all files of which are read as data; give a "
                "directory outside of it"
            )


def survey_job(config: CoupleConfig, maker: BlockMaker | None = None) -> tuple[CoupleConfig, Survey]:
    """Refuse what can be refused before the data are read, then join or start Ray where the job uses it.

    Returns: the config with its payload decided, and the inputs' survey.

    Raises:
        InputError: as `couple`.
    """
    asked = config.output.payload
    config, surveyed, blocks = check_inputs(config, maker)
    if uses_ray(config.cluster):
        from flowpairs.pipeline.cluster.connect import connect

        connect(config.cluster)
        if blocks is not None:
            check_cluster(config, blocks)
    print_line(f"data: {describe(config.data, surveyed.target)}", sys.stderr)
    if asked == "auto":
        size = config.output.full_bytes(surveyed.target.shape) / 1e9
        print_line(f"payload: {config.output.payload}; in full, the pairs take {size:,.3g} GB", sys.stderr)
    return config, surveyed


def assemble(config: CoupleConfig, inputs: Inputs, maker: BlockMaker | None = None, *, extend: bool = False) -> Job:
    """Assemble the job from what was read; nothing is written.

    Raises:
        InputError: sizes that do not fit, or other inputs than the config or the store expects.
    """
    directory = as_path(config.output.dir)
    blocks = check_sizes(config, len(inputs.target), inputs.table, inputs.source)
    config = pin(config, inputs.fingerprints)
    if maker is not None:
        maker.check(inputs.target.rows.shape, inputs.target.num_classes)
        config = pin(config, {"coupling.run_fingerprint": maker.fingerprint})
    resume.check_same(config, directory, extend=extend)
    return Job(config, directory.resolve(), blocks, inputs, maker=maker)


def carry_out(job: Job, on_block: OnBlock = lambda report: None) -> format.Index:
    """Compute the blocks that are left, and write the index.

    Args:
        job: the job, whose store is prepared.
        on_block: called with the report of each computed block, as it is finished.

    Raises:
        InputError: the cluster cannot hold the actors that the config asks for.
        JobError: as `couple`.
    """
    done = resume.blocks_done(job.store, job.blocks)
    todo = [block for block in range(job.blocks.count) if block not in done]
    if done:
        print_line(
            f"{job.store}: going on, {len(done):,} of {counted(job.blocks.count, 'block')} are there", sys.stderr
        )
    if todo or job.config.coupling.method == "semidiscrete":  # its potentials may be all that is missing
        _solve(job, todo, on_block)
    return finish_store(job)


def check_sizes(config: CoupleConfig, rows: int, table: PairTable | None, source: SourceData | None = None) -> Blocks:
    """Divide the job, and refuse an exact coupling that memory cannot hold or a table that does not fit the data."""
    blocks = divide(config, rows, source)
    if config.features.pca is not None and config.coupling.method in ("independent", "imported"):
        raise InputError(f"features.pca: {config.coupling.method} pairs have no cost to see features; remove it")
    if table is not None:
        if config.sampling.draw != "categorical":
            raise InputError(f"sampling.draw={config.sampling.draw!r}: imported pairs are not drawn; remove it")
        check_table(table, f"coupling.table={config.coupling.table!r}", blocks.ids, blocks.pairs, config.output.payload)
    weighted = config.data.weight is not None or (source is not None and source.weights is not None)
    if config.coupling.sharpness is not None and not weighted:
        from flowpairs.pipeline.ot.sinkhorn.target_sharpness import check_reachable

        sides = [(blocks.rows, blocks.m)] if not config.two_sided else []
        sides += [(min(blocks.n, len(leg.source)), min(blocks.n, len(leg.target))) for leg in blocks.legs]
        for rows, columns in sides:
            check_reachable(config.coupling.sharpness, math.log(rows), math.log(columns))
    if config.coupling.method == "exact":
        from flowpairs.pipeline.ot import check_exact_memory

        check_exact_memory(blocks.rows, blocks.m)
    return blocks


def check_cluster(config: CoupleConfig, blocks: Blocks) -> None:
    """Refuse actors that the cluster cannot hold, and teams that a block cannot keep busy; Ray must be running."""
    team, shape = config.cluster.actors_per_block, shape_for(config.cluster, blocks.count)
    if team == 1:
        return
    import torch

    from flowpairs.pipeline.ot.tiles.partition import check_team

    check_team(team, blocks.rows, blocks.m, torch.device("cuda" if shape.gpus else "cpu"))


def _solve(job: Job, todo: list[int], on_block: OnBlock) -> None:
    """Compute the blocks that are left, and show the progress."""
    workers, reports = blocks_of(job, todo)
    config, blocks = job.config, job.blocks
    done = done_before = blocks.pairs - sum(blocks.pairs_of(block) for block in todo)
    began, errors = time.monotonic(), []
    # An error here must not keep the generator, and with it the actors, until its traceback is dropped.
    with closing(reports), progress(f"coupling {workers}", blocks.pairs) as show, job_metrics(job) as metrics:
        if metrics:
            metrics.set(couple_blocks_done=blocks.count - len(todo), couple_blocks_left=len(todo))
        for number, report in enumerate(reports, blocks.count - len(todo) + 1):
            if not report["converged"] and config.coupling.on_unconverged == "fail":
                raise JobError(_unconverged_block(report))
            on_block(report)
            pairs = blocks.pairs_of(report["block"])
            done += pairs
            errors += [report[side] for side in ("source_error", "target_error") if report[side] is not None]
            seconds = time.monotonic() - began
            pace = (done - done_before) / seconds
            text = (
                f"{number}/{blocks.count} blocks  {pace:,.0f} pairs/s  "
                f"{remaining(float(done - done_before), float(blocks.pairs - done_before), seconds)} left"
            )
            show(done, text + (f"  worst marginal error {max(errors):.1e}" if errors else ""))
            if metrics:
                metrics.block(pairs, report["passes"] if config.coupling.method == "sinkhorn" else None)
                metrics.set(
                    couple_blocks_done=number, couple_blocks_left=blocks.count - number, couple_pairs_per_second=pace
                )
                if errors:
                    metrics.set(couple_marginal_error=max(errors))


def _unconverged_block(report: dict[str, Any]) -> str:
    return (
        f"block {report['block']} stopped after {report['passes']} passes at a marginal error of "
        f"{report['target_error']:.1e}; raise coupling.max_passes, coupling.tol or the epsilon, or accept it with "
        "coupling.on_unconverged=record"
    )


def finish_store(job: Job) -> format.Index:
    """Write blocks.parquet and, last, the index, from the sidecars alone."""
    blocks = job.blocks
    names = [format.shard_name(number) for block in range(blocks.count) for number in blocks.shards(block)]
    sidecars = format.read_sidecars(job.store, names)
    write_blocks(job.store, {s.shard.block: s.report for s in sidecars}.values())
    index = job.index([s.shard for s in sidecars])
    format.write_index(job.store, index)
    return index

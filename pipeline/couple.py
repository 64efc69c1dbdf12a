"""The coupling job: check the input, read the data, run the blocks on actors, write the index last.

Run again, it goes on where it stopped: a block whose shards all have their sidecars is not computed again, and what it
recomputes comes out in the same bits.
"""

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import config as configs
from pipeline import resume
from pipeline.blocks import Blocks, divide
from pipeline.config import CoupleConfig
from pipeline.errors import InputError, JobError
from pipeline.place import Place, place
from pipeline.progress import progress, remaining, repeated
from pipeline.store import format, tables
from pipeline.table import Table, check_table, read_table

if TYPE_CHECKING:
    from pipeline.cluster import ActorShape
    from pipeline.conditions import Conditions
    from pipeline.source import Source

COSTS = {"dot": "-<x0, x1>", "sqeuclidean": "|x0 - x1|^2", "geodesic": "-4 t log of the heat kernel"}
PERMILLE = 1000  # what progress of potentials is counted in
CONVENTION = (
    "cost C = {cost} on the features; eps in units of C; potentials f, g without the marginals: "
    "P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)"
)


def couple(config: CoupleConfig, on_block: Callable[[dict[str, Any]], None] = lambda row: None) -> format.Index:
    """Make the pair store that `config` describes, or complete it.

    Args:
        config: the job.
        on_block: told the report of every block computed, as it comes.

    Raises:
        InputError: anything wrong with the config, the data or the output directory, found before Ray starts.
        JobError: a block did not converge or died too often.
    """
    from pipeline import data, source

    directory = place(config.output.dir)
    finished = resume.check(config, directory)
    if finished:
        return finished
    spec = data.check(config.data)
    source_spec = source.check(config, spec)
    table = None
    if config.coupling.table is not None:
        table = read_table(config.coupling.table, spec.shape)
        config = resume.pin(config, "table_fingerprint", table.fingerprint(), "table")
    known = spec.rows if not config.two_sided else None  # whose blocks hold what is known when both sides are read
    if known is not None:
        check_sizes(config, known, table)
    from pipeline.cluster import connect

    connect(config.cluster)
    if known is not None:
        check_teams(config, check_sizes(config, known, table))
    target = data.read(config.data, spec)
    other = source.read(config, source_spec, target)
    blocks = check_sizes(config, len(target.x), table, other)
    check_teams(config, blocks)
    config = resume.pin_data(pin_coupling(config, blocks, target, other), directory, target)
    directory = directory.resolve()
    resume.prepare(config, directory, target, other)
    done = resume.blocks_done(directory, blocks)
    todo = [block for block in range(blocks.count) if block not in done]
    if todo or config.coupling.method == "semidiscrete":  # whose potentials may be all that is missing
        _run(config, directory, blocks, target, table, todo, on_block, other)
    return _finish(config, directory, blocks, target, table, other)


def check_sizes(config: CoupleConfig, rows: int, table: Table | None, source: "Source | None" = None) -> Blocks:
    """Divide the job, and refuse an exact coupling that memory cannot hold or a table that does not fit the data."""
    blocks = divide(config, rows, source)
    if config.features.pca is not None and config.coupling.method in ("independent", "imported"):
        raise InputError(f"features.pca: {config.coupling.method} pairs have no cost to see features; remove it")
    if table is not None:
        if config.sampling.draw != "categorical":
            raise InputError(f"sampling.draw={config.sampling.draw!r}: imported pairs are not drawn; remove it")
        check_table(table, f"coupling.table={config.coupling.table!r}", blocks.ids, blocks.pairs, config.output.payload)
    if config.coupling.method == "exact":
        from pipeline.ot import check_exact_memory

        check_exact_memory(blocks.rows, blocks.m)
    return blocks


def check_teams(config: CoupleConfig, blocks: Blocks) -> None:
    """Refuse teams that the cluster cannot hold or a block cannot keep busy, before data are read; Ray is running."""
    team = config.cluster.actors_per_block
    if team == 1:
        return
    import torch

    from pipeline.cluster import actor_shape
    from pipeline.ot.share import check_team

    shape = actor_shape(config.cluster, blocks.count)
    check_team(team, blocks.rows, blocks.m, torch.device("cuda" if shape.gpus else "cpu"))


def _run(
    config: CoupleConfig,
    directory: Place,
    blocks: Blocks,
    target: Any,
    table: Table | None,
    todo: list[int],
    on_block: Callable[[dict[str, Any]], None],
    source: "Source | None",
) -> None:
    """Couple the blocks that are left, and tell how far they are."""
    from pipeline.telemetry import telemetry

    shape, reports, todo = run_blocks(config, directory, blocks, target, table, todo, source)
    done = done_before = blocks.pairs - sum(blocks.pairs_of(block) for block in todo)
    began, errors = time.monotonic(), []
    title = f"coupling on {shape.actors} actors"
    # An error here must not keep the generator, and with it the actors, until its traceback is forgotten.
    with closing(reports), progress(title, blocks.pairs) as show, telemetry(directory) as told:
        told.set(couple_blocks_done=blocks.count - len(todo), couple_blocks_left=len(todo))
        for number, row in enumerate(reports, blocks.count - len(todo) + 1):
            if not row["converged"] and config.coupling.on_unconverged == "fail":
                raise JobError(_unconverged(row))
            on_block(row)
            pairs = blocks.pairs_of(row["block"])
            done += pairs
            errors += [row[side] for side in ("source_error", "target_error") if row[side] is not None]
            seconds = time.monotonic() - began
            pace = (done - done_before) / seconds
            text = (
                f"{number}/{blocks.count} blocks  {pace:,.0f} pairs/s  "
                f"{remaining(float(done - done_before), float(blocks.pairs - done_before), seconds)} left"
            )
            show(done, text + (f"  worst marginal error {max(errors):.1e}" if errors else ""))
            told.block(pairs, row["passes"] if config.coupling.method == "sinkhorn" else None)
            told.set(couple_blocks_done=number, couple_blocks_left=blocks.count - number, couple_pairs_per_second=pace)
            if errors:
                told.set(couple_marginal_error=max(errors))


def run_blocks(
    config: CoupleConfig,
    directory: Place,
    blocks: Blocks,
    target: Any,
    table: Table | None,
    todo: list[int],
    source: "Source | None" = None,
) -> tuple["ActorShape", Generator[dict[str, Any], None, None], list[int]]:
    """Hire as many actors as fit and couple the blocks `todo` on them.

    Returns: the actors' shape, the report of every block as it is finished, and the blocks, of which there are more
    than asked for where others start from potentials that were lost.
    """
    import ray

    from pipeline import known, matrix
    from pipeline.actor import Posts
    from pipeline.cluster import actor_shape
    from pipeline.conditions import conditions
    from pipeline.coupler import Coupler
    from pipeline.crew import work

    features = resume.features(config, directory, target.x, source)
    data_features = features.of_data(target.x, flips=config.data.flips)
    source_features = None
    if source is not None:
        chain = source.x is target.x
        source_features = data_features if chain else features.of_data(source.x, flips=source.flips)
    start = known.of_start(config, blocks, target, data_features)
    given = conditions(config.coupling, target)
    # The arrays go into the object store once; every actor on a node maps the same memory.
    values = (features, target.x, target.labels, data_features, table, given, start)
    sides = (target.weights, source, source_features, matrix.load(config.coupling, blocks, source))
    shared = [ray.put(value) for value in (*values, *sides)]
    if config.coupling.method == "semidiscrete":
        _solve_potentials(config, directory, blocks, given, [shared[5], shared[3], shared[6]])
    shape, per_block = actor_shape(config.cluster, len(todo)), config.cluster.actors_per_block
    posts = Posts(shape, per_block, Coupler, config, directory, blocks, shared, shape.cpus)
    stages = [todo]
    if config.coupling.warm_start:
        later = [block for block in todo if block not in blocks.seeds]
        lost = [block for block in blocks.seeds if later and not known.file(directory, block).is_file()]
        todo = sorted({*lost, *todo})
        stages = [[block for block in todo if block in blocks.seeds], later]
    return shape, work(posts, shape.actors // per_block, stages), todo


def _solve_potentials(
    config: CoupleConfig, directory: Place, blocks: Blocks, given: "Conditions", shared: list[Any]
) -> None:
    """Solve what is left of a semi-discrete coupling: one problem by all actors together, or one a class by each."""
    from pipeline import potentials
    from pipeline.actor import Posts
    from pipeline.cluster import actor_shape
    from pipeline.crew import work
    from pipeline.telemetry import telemetry

    todo = potentials.left(directory, given)
    alone = len(given.problems()) > 1
    shape = actor_shape(config.cluster, len(todo) if alone else potentials.most_members(blocks.ids))
    team = 1 if alone else shape.actors
    posts = Posts(shape, team, potentials.Solver, config, directory, blocks, shared, shape.cpus)
    began, problems = time.monotonic(), given.problems()
    before = potentials.solving(directory, problems).share
    with progress(f"potentials on {shape.actors} actors", PERMILLE) as show, telemetry(directory) as told:

        def tell() -> None:
            now = potentials.solving(directory, problems)
            left = remaining(now.share - before, 1 - before, time.monotonic() - began)
            show(round(PERMILLE * now.share), f"{now.text}  {left} left")
            told.set(couple_potentials_ratio=now.share)

        reports = work(posts, shape.actors // team, [todo])
        with repeated(tell), closing(reports):
            for report in reports:
                if not report["converged"] and config.coupling.on_unconverged == "fail":
                    raise potentials.unconverged(report, config.coupling.chi2)
    potentials.gather(directory, given, blocks.ids)


def pin_coupling(config: CoupleConfig, blocks: Blocks, target: Any, source: "Source | None" = None) -> CoupleConfig:
    """The config with the fingerprints of its source, its condition file, its costs and where it starts from."""
    from pipeline import known, matrix
    from pipeline.conditions import conditions
    from pipeline.source import pinned

    config = pinned(config, source)
    costs = matrix.load(config.coupling, blocks, source)
    digest = None if costs is None else hashlib.sha256(np.ascontiguousarray(costs, "<f4").data).hexdigest()
    config = resume.pin(config, "matrix_fingerprint", digest, "matrix")
    found = conditions(config.coupling, target).fingerprint
    config = resume.pin(config, "condition_fingerprint", found, "condition_file")
    if config.coupling.start is None:
        return config
    start = known.elsewhere(config.coupling.start, blocks, target)
    return resume.pin(config, "start_fingerprint", hashlib.sha256(start.data).hexdigest(), "start")


def _convention(config: CoupleConfig) -> str:
    return CONVENTION.format(cost=COSTS.get(config.coupling.cost, config.coupling.cost))


def _unconverged(row: dict[str, Any]) -> str:
    return (
        f"block {row['block']} stopped after {row['passes']} passes at a marginal error of {row['target_error']:.1e}; "
        "raise coupling.max_passes, coupling.tol or the epsilon, or accept it with coupling.on_unconverged=record"
    )


def _finish(
    config: CoupleConfig,
    directory: Place,
    blocks: Blocks,
    target: Any,
    table: Table | None,
    source: "Source | None" = None,
) -> format.Index:
    """Write blocks.parquet and, last, the index, from the sidecars alone."""
    sidecars = [
        format.read_sidecar(directory / "shards" / PurePosixPath(format.shard_name(number)).with_suffix(".json"))
        for block in range(blocks.count)
        for number in blocks.shards(block)
    ]
    tables.write_blocks(directory, {s.shard.block: s.report for s in sidecars}.values())
    index = format.Index(
        config_hash=configs.digest(config.determining()),
        data_fingerprint=target.fingerprint,
        pairs=sum(s.shard.pairs for s in sidecars),
        shape=tuple(target.x.shape[1:]),
        num_classes=target.num_classes,
        payload=config.output.payload,
        method=config.coupling.method,
        convention=_convention(config) if table is None else "pairs made elsewhere, as a table had them",
        shards=tuple(s.shard for s in sidecars),
        weighted=table is not None and table.weights is not None,
        source_fingerprint=None if source is None else source.fingerprint,
        times=() if source is None else source.times,
    )
    format.write_index(directory, index)
    return index

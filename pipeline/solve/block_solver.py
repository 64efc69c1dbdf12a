"""Solver of one block: features of its rows, coupling, partners, shards. Ray is left to pipeline/cluster/actors.py.

Solving and writing are separate, so that one block is written while the next one is solved. A block's shards are a pure
function of (config, data, block); they do not depend on the process that computes them.
"""

import dataclasses
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakMethod

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.atomic import write_array
from flowpairs.pipeline.base.environment import made_with
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.imported_pairs import PairTable, imported_report
from flowpairs.pipeline.blocks.source import weights_of
from flowpairs.pipeline.solve.ahead import Ahead
from flowpairs.pipeline.solve.device_memory import ahead_bytes, device_name, gpu_bytes
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store.checkpoints import checkpoint_writer, load_checkpoint, remove_checkpoint
from flowpairs.pipeline.store.format import pairs_per_record
from flowpairs.pipeline.store.potential_files import Potentials, block_checkpoint, block_file, load_potentials
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.writer import write_shard

if TYPE_CHECKING:
    from torch import Tensor

    from flowpairs.pipeline.ot import Coupling, Problem
    from flowpairs.pipeline.ot.tiles.partition import Team
    from flowpairs.pipeline.solve.assignment import RowAssigner


@dataclass(frozen=True)
class SolvedBlock:
    """A block that is ready to be written.

    Attributes:
        block: number of the block.
        report: report of its coupling, a row of blocks.parquet.
        pairs: one pair per source row; of the last block, only as many as the job needs are written.
        g: target potential, where the method has one.
    """

    block: int
    report: dict[str, Any]
    pairs: PairTable
    g: Float64[np.ndarray, " m"] | None


class BlockInputs(NamedTuple):
    """What a block's problem is made of, on the solver's device."""

    x0: "Tensor"  # features of the source rows [n, k]; of noise, in a team, only this member's rows are filled in
    x1: "Tensor"  # features of the target rows [m, k]
    a: "Tensor | None"  # weights [n]
    b: "Tensor | None"  # weights [m]
    costs: "Tensor | None"  # the block's part of a precomputed cost [n, m]


def build_solver(job: Job, threads: int, device: str) -> Any:
    """Build what computes a job's blocks in this process; the arguments are those of `BlockSolver`."""
    return BlockSolver(job, threads, device) if job.maker is None else job.maker.solver(job, threads, device)


def made_on(device: str) -> dict[str, str]:
    """Say on which device, with what and when a block was made, for its report."""
    made = {"flowpairs": "", "commit": "", **made_with()}
    return {"device": device_name(device), **{name: made[name] for name in ("torch", "flowpairs", "commit", "date")}}


class BlockSolver:
    """Computes blocks; built once per process.

    Args:
        job: the job, with its features.
        threads: number of CPU cores that this process may use.
        device: "cpu" or "cuda", where to compute.
        potentials: potentials of a semi-discrete coupling; None loads those in the job's directory.
    """

    def __init__(self, job: Job, threads: int, device: str, potentials: Potentials | None = None) -> None:
        import torch

        from flowpairs.pipeline.ot.tiles.partition import SINGLE

        torch.set_num_threads(threads)
        self.job, self.device = job, device
        self.team: "Team" = SINGLE  # replaced by an actor that is a member of a team
        self.config, self.blocks, self.inputs, self.space = job.config, job.blocks, job.inputs, job.space
        self.rows, self.seed = job.inputs.target.rows, job.config.source.seed
        self._potentials = potentials
        weak = WeakMethod(self._make_inputs)  # in no cycle, so that files are given back as soon as a solver goes

        def make(block: int) -> BlockInputs:
            method = weak()
            assert method is not None
            return method(block)

        self._ahead = Ahead(make, device)
        self._solved: dict[int | None, Coupling] = {}  # of problems that several blocks share, by `Blocks.same`

    def solve(self, block: int, ahead: int | None = None) -> SolvedBlock:
        """Couple a block and draw its pairs, assign partners to its rows, or take its pairs from the table.

        Args:
            block: number of the block.
            ahead: number of the block that comes next, whose noise and features are made meanwhile; None: none is, as
                on CPUs, where the solve has all cores.
        """
        if self.inputs.table is not None:
            report, pairs, g = self._import(self.inputs.table, block)
        elif self.config.coupling.method == "semidiscrete":
            report, pairs, g = self._assign(block)
        else:
            report, pairs, g = self._couple(block, ahead)
        return SolvedBlock(block, {"block": block, **report, **made_on(self.device)}, pairs, g)

    def write(self, solved: SolvedBlock) -> dict[str, Any]:
        """Write a block's shards and return its report once they are on disk.

        Nothing is written when the coupling did not converge and the config does not accept that.
        """
        block, pairs, directory = solved.block, solved.pairs, self.job.store
        if solved.report["converged"] or self.config.coupling.on_unconverged == "record":
            if solved.g is not None:
                write_array(block_file(directory, block), solved.g)
            for number, rows in self.blocks.shards(block).items():
                first = None if pairs.rows is None else int(pairs.rows[rows.start])
                records = self._records(block, pairs, rows)
                write_shard(directory, number, block, records, first, solved.report, self.config.output.payload)
        remove_checkpoint(block_checkpoint(directory, block))
        return solved.report

    def _couple(
        self, block: int, ahead: int | None
    ) -> tuple[dict[str, Any], PairTable, Float64[np.ndarray, " m"] | None]:
        """Couple a block; return the coupling's report, the pairs and the target potential."""
        import torch

        from flowpairs.pipeline.ot.tiles.partition import of_first
        from flowpairs.pipeline.solve import draw

        blocks, seed = self.blocks, self.seed
        n, first, backward = blocks.n, blocks.first_row(block), self.config.sampling.direction == "backward"
        started = time.perf_counter()
        same = blocks.same(block)
        found = self._solved.get(same)
        coupling, before = (self._coupling(block, ahead), 0.0) if found is None else (found, found.pass_seconds)
        if same is not None:
            self._solved[same] = coupling
        sides = coupling.problem.weights()
        drawn_for, drawn = sides[::-1] if backward else sides
        rows = None
        relax = self.config.coupling.relax
        if backward or self.inputs.source is not None or (relax is not None and relax.source < math.inf):
            u = float(noise.uniforms(seed, noise.Stream.ROWS, block, 1)[0])
            order = noise.permutation(seed, noise.Stream.ROWS, n, high=block + 1)
            allotted = torch.from_numpy(draw.allot_rows(drawn_for.cpu().numpy(), n, u, order))
            rows = of_first(self.team, allotted.to(self.device)).cpu().numpy()
        uniforms = noise.uniforms(seed, noise.Stream.DRAW, first, n)
        chosen = draw.draw_pairs(coupling, uniforms, rows, self._order(block, len(drawn)), backward=backward)
        report = dataclasses.asdict(coupling.report) | {
            "seconds": time.perf_counter() - started,
            "pass_seconds": coupling.pass_seconds - before,
        }
        g = None if coupling.g is None else coupling.g.double().cpu().numpy()
        return report, self._pairs(block, *chosen), g

    def _coupling(self, block: int, ahead: int | None) -> "Coupling":
        """Solve the coupling of the block's two sides, and begin with the inputs of the next one."""
        from flowpairs.pipeline.solve import draw

        start, resume, save = self.inputs.start, None, None
        problem = self._problem(self._ahead.take(block))
        if ahead is not None and self.blocks.same(ahead) is None and self._has_room:
            self._ahead.begin(ahead)
        if self.job.directory is not None:
            path = block_checkpoint(self.job.directory, block)
            resume = self._recorded(path)
            save = None if self.team.rank else checkpoint_writer(path, self.config.cluster.checkpoint_seconds)
        return draw.solve_block(
            self.config.coupling,
            problem,
            g0=None if start is None else self._to_device(start[self.blocks.data_ids(block)]),
            team=self.team,
            resume=resume,
            save=save,
        )

    @cached_property
    def _has_room(self) -> bool:
        """Whether the points of two blocks fit in this process's memory; on a CPU whoever asks for it knows."""
        if self.device == "cpu":
            return True
        asked = self.config.cluster.gpus_per_actor
        memory = gpu_bytes() * (1.0 if asked == "auto" else min(1.0, asked))
        return ahead_bytes(self.blocks.n, self.blocks.m, self.space.map.dim, self.team.size, memory) > 0

    def _recorded(self, path: AnyPath) -> "dict[str, Tensor] | None":
        """Load a block's checkpoint as the team's first member finds it: storage may show others an older one."""
        import torch

        from flowpairs.pipeline.ot.tiles.partition import bytes_of_first

        found = None if self.team.rank else load_checkpoint(path)
        if self.team.size == 1:
            return found
        torch.save(found, packed := io.BytesIO())
        return torch.load(io.BytesIO(bytes_of_first(self.team, packed.getvalue(), torch.device(self.device))))

    def _problem(self, made: BlockInputs) -> "Problem":
        """Build a block's problem; in a team the members exchange what they have made of its noise."""
        from flowpairs.pipeline.ot.tiles.partition import RowPartition
        from flowpairs.pipeline.solve import draw

        x0, x1, a, b, costs = made
        if self.inputs.source is None:
            x0 = RowPartition(len(x0), len(x1), x0.device, self.team).gather(x0)
        return draw.build_problem(self.config.coupling, x0, x1, a, b, costs)

    def _make_inputs(self, block: int) -> BlockInputs:
        """Make a block's two sides in the space of the cost, and their weights; by this process alone."""
        ids, source, costs = self.blocks.data_ids(block), self.inputs.source, self.inputs.costs
        x1, b = (
            self._to_device(self.space.target.take(ids)),
            self._to_device(weights_of(self.inputs.target.weights, ids)),
        )
        if source is None:
            x0 = self._noise(self.blocks.first_row(block), self.blocks.n, len(ids))
            return BlockInputs(x0, x1, None, b, None)
        assert self.space.source is not None
        rows = self.blocks.source_ids(block)
        x0, a = self._to_device(self.space.source.take(rows)), self._to_device(weights_of(source.weights, rows))
        given = None if costs is None else self._to_device(costs[np.ix_(rows, ids)])
        return BlockInputs(x0, x1, a, b, given)

    def _to_device(self, array: np.ndarray | None) -> Any:
        """Convert an array to a tensor on this solver's device."""
        import torch

        return None if array is None else torch.from_numpy(array).to(self.device)

    def _pairs(self, block: int, rows: Int64[np.ndarray, " n"], partners: Int64[np.ndarray, " n"]) -> PairTable:
        """Look up the ids or source rows of the drawn pairs."""
        ids = self.blocks.data_ids(block)[partners]
        if self.inputs.source is None:
            return PairTable(ids, self.blocks.first_row(block) + rows, None)
        return PairTable(ids, None, None, source_ids=self.blocks.source_ids(block)[rows])

    def _order(self, block: int, count: int) -> Int64[np.ndarray, " m"] | None:
        """Make the random order of a block's data by which a balanced draw rounds; None for a categorical draw."""
        if self.config.sampling.draw != "balanced":
            return None
        return noise.permutation(self.seed, noise.Stream.BALANCE, count, high=block)

    def _assign(self, block: int) -> tuple[dict[str, Any], PairTable, None]:
        """Assign partners to the block's rows; return the report and the pairs."""
        from flowpairs.pipeline.solve.assignment import assignment_report

        potentials, assigner = self._assigner
        started = time.perf_counter()
        first, count = self.blocks.first_row(block), self.blocks.pairs_of(block)
        x0 = noise.gaussian(self.seed, first, count, self.rows.dim)
        assigning = time.perf_counter()
        found = assigner.assign(first, x0, self._order(block, self.blocks.ids))
        assigned = time.perf_counter() - assigning
        costs = imported_report(found.x, self.space.target.take(found.ids), self.blocks.ids)
        report = assignment_report(assigner, potentials, first, found, costs)
        report |= {"seconds": time.perf_counter() - started, "pass_seconds": assigned}
        return report, PairTable(found.ids, np.arange(first, first + count), None), None

    @cached_property
    def _assigner(self) -> "tuple[Potentials, RowAssigner]":
        from flowpairs.pipeline.solve.assignment import RowAssigner

        found = self._potentials or load_potentials(self.job.store)
        conditions = self.inputs.conditions
        return found, RowAssigner(self.seed, self.space.map, self.space.target.whole(), conditions, found, self.device)

    def _noise(self, first: int, n: int, m: int) -> "Tensor":
        """Compute the features [n, k] of a block's noise on this solver's device; in a team, only its own rows'."""
        import torch

        from flowpairs.pipeline.ot.tiles.partition import RowPartition

        device, to_features = torch.device(self.device), self.space.map
        partition = RowPartition(n, m, device, self.team)
        # Section by section, whichever member owns it: the same products give the same bits.
        own = self.seed, first, n, [partition.sections[k] for k in partition.mine]
        if device.type == "cpu":
            return torch.from_numpy(to_features.of_noise(*own))
        return to_features.of_noise_on(device, *own)

    def _import(self, table: PairTable, block: int) -> tuple[dict[str, Any], PairTable, None]:
        """Take the block's part of the table and compute its costs."""
        first = self.blocks.first_row(block)
        pairs = table[first : first + self.blocks.pairs_of(block)]
        x0 = pairs.side(self.seed, self.rows.shape).reshape(len(pairs.data_ids), -1)
        return imported_report(x0, self.space.target.take(pairs.data_ids), len(np.unique(pairs.data_ids))), pairs, None

    def _records(self, block: int, pairs: PairTable, rows: range) -> Iterator[Record]:
        """Yield the pairs of some of the block's rows, record by record; noise is generated again rather than kept."""
        shape, leg, labels = self.rows.shape, self.blocks.leg(block), self.inputs.target.labels
        payload = self.config.output.payload
        step = pairs_per_record(shape, payload)
        for start in range(rows.start, rows.stop, step):
            part = pairs[start : min(start + step, rows.stop)]
            chosen = part.data_ids
            yield Record(
                first_row=start,
                x0=self.x0_of(part) if payload == "full" else None,
                x1=None if payload == "ids" else self.rows.read(chosen),
                data_ids=chosen,
                labels=None if labels is None else labels[chosen % len(self.rows)],
                seed=None if part.rows is None else self.seed,
                rows=part.rows,
                weights=part.weights,
                source_ids=part.source_ids,
                span=None if leg is None else leg.span,
            )

    def x0_of(self, part: PairTable) -> Float32[np.ndarray, "k ..."]:
        """Compute the source side of some pairs."""
        if part.source_ids is not None:
            assert self.inputs.source is not None
            return self.inputs.source.rows.read(part.source_ids)
        return part.side(self.seed, self.rows.shape)

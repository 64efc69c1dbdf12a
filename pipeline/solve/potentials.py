"""The potentials of a semi-discrete coupling: one number per datum, solved before partners are assigned.

One process, or a team of them that shares the data, solves a problem; see pipeline/ot/semidiscrete/solver.py.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.noise import Stream
from flowpairs.pipeline.blocks.source import weights_of
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store.checkpoints import (
    checkpoint_writer,
    load_checkpoint,
    progress_writer,
    remove_checkpoint,
)
from flowpairs.pipeline.store.potential_files import Potentials, join_potentials, problem_checkpoint, write_problem

if TYPE_CHECKING:
    from torch import Tensor

    from flowpairs.pipeline.ot.semidiscrete.solver import Semidiscrete
    from flowpairs.pipeline.ot.semidiscrete.targets import Targets
    from flowpairs.pipeline.ot.tiles.partition import Team

APART = 2**32  # distance between the first points of two problems


class FeatureNoise:
    """Noise in the space of the features, where it is standard Gaussian too, with conditions appended.

    It is a `flowpairs.pipeline.ot.semidiscrete.targets.PointSource`. None of its numbers occurs in a pair. They are
    made on `device`, and the same bits on any.
    """

    def __init__(self, seed: int, dim: int, conditions: Conditions, problem: int, device: str = "cpu") -> None:
        self.seed, self.dim, self.conditions, self.offset = seed, dim, conditions, problem * APART
        self.device = device

    def points(self, first: int, count: int) -> "Tensor":
        """See `PointSource.points`."""
        import torch

        x, rows = self._gaussian(self.offset + first, count), self.conditions.rows
        if rows is not None:
            lenders = self.conditions.lenders(self.seed, first, count, Stream.SOLVE_CONDITION)
            x = torch.cat([x, torch.from_numpy(rows[lenders]).to(self.device)], 1)
        return x

    def _gaussian(self, first: int, count: int) -> "Tensor":
        import torch

        if self.device == "cpu":
            return torch.from_numpy(noise.gaussian(self.seed, first, count, self.dim, Stream.SOLVE))
        from flowpairs.pipeline.blocks.device_noise import device_gaussian

        return device_gaussian(
            self.seed, torch.arange(first, first + count, device=self.device), self.dim, Stream.SOLVE
        )


def extended(data_features: Float32[np.ndarray, "ids k"], conditions: Conditions) -> Float32[np.ndarray, "ids kq"]:
    """Append the data's conditions to their features."""
    if conditions.rows is None:
        return data_features
    ids = np.arange(len(data_features))
    return np.concatenate([data_features, conditions.rows[ids % len(conditions.rows)]], 1)


class PotentialSolver:
    """Solves the problems of a semi-discrete coupling; built once per process.

    Args:
        job: the job, as for `BlockSolver`.
        threads: number of CPU cores that this process may use.
        device: "cpu" or "cuda", where to compute.
    """

    def __init__(self, job: Job, threads: int, device: str) -> None:
        import torch

        from flowpairs.pipeline.ot.tiles.partition import SINGLE

        torch.set_num_threads(threads)
        self.job, self.device = job, device
        self.team: "Team" = SINGLE  # replaced by an actor that is a member of a team
        self.conditions, self.features = (
            job.inputs.conditions,
            extended(job.space.target.whole(), job.inputs.conditions),
        )
        # A relative eps refers to the cost between all data and all noise, also where each class is a problem of its
        # own. Found at the first problem.
        self.std: float | None = None

    def solve(self, problem: int, ahead: int | None = None) -> "tuple[int, Semidiscrete]":
        """Find the potential of a problem's data; nothing is made for the one `ahead`, whose points come as it goes."""
        import torch

        from flowpairs.pipeline.ot.semidiscrete import solver
        from flowpairs.pipeline.solve.draw import absolute_eps

        config, start = self.job.config, self.job.inputs.start
        options = config.coupling
        ids = self.conditions.ids(problem, self.job.blocks.ids)
        targets = self._targets(ids)
        if self.std is None:
            every = [self.conditions.ids(each, self.job.blocks.ids) for each in self.conditions.problems()]
            everything = targets if len(every) == 1 else self._targets(np.sort(np.concatenate(every)))
            self.std = solver.semidiscrete_cost_std(everything, self._noise(0))
        progress, resume, save = None, None, None
        if self.job.directory is not None:
            path = problem_checkpoint(self.job.directory, problem)
            resume = load_checkpoint(path)
            if self.team.rank == 0:
                progress = progress_writer(path, options.chi2)
                save = checkpoint_writer(path, config.cluster.checkpoint_seconds)
        solved = solver.solve_semidiscrete(
            targets,
            self._noise(problem),
            absolute_eps(options, self.std),
            chi2=options.chi2,
            max_rounds=options.max_passes,
            g0=None if start is None else torch.from_numpy(start[ids]),
            scale=self.std,
            progress=progress,
            resume=resume,
            save=save,
            backend=options.backend,
        )
        return problem, solved

    def _targets(self, ids: Int64[np.ndarray, " k"]) -> "Targets":
        """Build the side of the data of a problem, or of all."""
        import torch

        from flowpairs.pipeline.ot.semidiscrete.targets import Targets

        weights = weights_of(self.conditions.weights, ids)
        b = None if weights is None else torch.from_numpy(weights)
        features = self.features if len(ids) == len(self.features) else self.features[ids]
        return Targets(torch.from_numpy(features), b, device=self.device, team=self.team)

    def write(self, solved: "tuple[int, Semidiscrete]") -> dict[str, Any]:
        """Write the potential where it converged or the config accepts that it did not; return the report."""
        problem, found = solved
        report = self.report(solved)
        if found.report.converged or self.job.config.coupling.on_unconverged == "record":
            write_problem(self.job.store, problem, found.g.cpu().numpy(), report)
        remove_checkpoint(problem_checkpoint(self.job.store, problem))
        return report

    def report(self, solved: "tuple[int, Semidiscrete]") -> dict[str, Any]:
        """Build the report of a solved problem, with its number."""
        problem, found = solved
        return {"block": problem, **dataclasses.asdict(found.report)}

    def _noise(self, problem: int) -> FeatureNoise:
        return FeatureNoise(self.job.config.source.seed, self.job.space.map.dim, self.conditions, problem, self.device)


def unconverged_problem(report: dict[str, Any], wanted: float) -> JobError:
    """Build the error for a solve that did not reach the wanted chi-square."""
    return JobError(
        f"the potential of problem {report['block']} reached chi2={report['chi2']:.3g} instead of {wanted:g} after "
        f"{report['rounds']} rounds; raise coupling.chi2, coupling.max_passes or the epsilon, or accept it with "
        "coupling.on_unconverged=record"
    )


def all_potentials(job: Job, threads: int, device: str) -> Potentials:
    """Solve every problem of a semi-discrete coupling in this process; nothing is written.

    Args:
        job: the job, with its features.
        threads: number of CPU cores that this process may use.
        device: "cpu" or "cuda", where to compute.

    Raises:
        JobError: a problem did not converge, and the config does not accept that.
    """
    solver, parts = PotentialSolver(job, threads, device), []
    for problem in job.inputs.conditions.problems():
        solved = solver.solve(problem)
        report = solver.report(solved)
        if not report["converged"] and job.config.coupling.on_unconverged == "fail":
            raise unconverged_problem(report, job.config.coupling.chi2)
        parts.append((solved[1].g.cpu().numpy(), report))
    return join_potentials(parts, job.inputs.conditions, job.blocks.ids)

"""The potentials of a semi-discrete coupling: one number a datum, solved before the first block is matched.

    DIR/potentials/p000000.npz        g of the data of one problem, and its report; one problem, or one a class
    DIR/potentials/p000000.trail.npz  how far its solve has come, to go on from there
    DIR/potentials/p000000.trail.json the same for people to read
    DIR/potentials/g.npy              g of every data id, when all problems are solved
    DIR/potentials/semidiscrete.json  the problems' reports, and the SHA-256 of g

An actor, or a team of them that shares the data, solves a problem; see actor.py and pipeline/ot/semidiscrete/solver.py.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64

from flowpairs.pipeline.base.atomic import atomic_open, write_array, write_atomically
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.blocks.noise import Stream
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.solve import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from flowpairs.pipeline.ot.semidiscrete.solver import Semidiscrete
    from flowpairs.pipeline.ot.tiles.partition import Team

ALMOST = 0.99  # the most that is told of a solve that is not over
APART = 2**32  # points between those of two problems


@dataclass(frozen=True)
class Potentials:
    """A solved semi-discrete coupling.

    Attributes:
        g: potential of every data id, in units of the cost.
        eps: absolute, the same for all problems.
        reports: of the problems, as `flowpairs.pipeline.ot.semidiscrete.solver.SemidiscreteReport` has them, with their
            number.
    """

    g: Float64[np.ndarray, " ids"]
    eps: float
    reports: list[dict[str, Any]]

    @property
    def chi2(self) -> float:
        """Of the problem that has the largest."""
        return max(report["chi2"] for report in self.reports)

    @property
    def rel_eps(self) -> float:
        """eps / std(C), over all data."""
        return self.reports[0]["rel_eps"]


class FeatureNoise:
    """Noise in the space of the features, where it is standard Gaussian too, with conditions behind it.

    See `flowpairs.pipeline.ot.semidiscrete.targets.Source`. Its numbers are none that pairs are made of.
    """

    def __init__(self, seed: int, dim: int, conditions: Conditions, problem: int) -> None:
        self.seed, self.dim, self.conditions, self.offset = seed, dim, conditions, problem * APART

    def points(self, first: int, count: int) -> "Tensor":
        """See `Source.points`."""
        import torch

        x, rows = noise.gaussian(self.seed, self.offset + first, count, self.dim, Stream.SOLVE), self.conditions.rows
        if rows is not None:
            lenders = self.conditions.lenders(self.seed, first, count, Stream.SOLVE_CONDITION)
            x = np.concatenate([x, rows[lenders]], 1)
        return torch.from_numpy(x)


def extended(data_features: Float32[np.ndarray, "ids k"], conditions: Conditions) -> Float32[np.ndarray, "ids kq"]:
    """The data's features with their conditions behind them."""
    if conditions.rows is None:
        return data_features
    ids = np.arange(len(data_features))
    return np.concatenate([data_features, conditions.rows[ids % len(conditions.rows)]], 1)


class PotentialSolver:
    """Solves problems; built once per actor, after Ray has decided which devices it sees.

    Args:
        config, directory, blocks: as for `Coupler`.
        threads: CPU cores that this process was given.
        conditions: what parts or extends the problems.
        data_features: features of every data id, conditions not included.
        start: potentials to start from, one a data id.
    """

    def __init__(
        self,
        config: CoupleConfig,
        directory: AnyPath,
        blocks: Blocks,
        threads: int,
        conditions: Conditions,
        data_features: Float32[np.ndarray, "ids k"],
        start: Float64[np.ndarray, " ids"] | None,
    ) -> None:
        import torch

        from flowpairs.pipeline.ot.tiles.partition import SINGLE

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.team: "Team" = SINGLE  # changed by an actor that is not
        self.config, self.directory, self.blocks = config, directory, blocks
        self.conditions, self.start = conditions, start
        self.dim, self.features = data_features.shape[1], extended(data_features, conditions)

    def solve(self, problem: int) -> "tuple[int, Semidiscrete]":
        """Find the potential of a problem's data."""
        import torch

        from flowpairs.pipeline.ot.semidiscrete import solver
        from flowpairs.pipeline.ot.semidiscrete.targets import Targets

        options, seed = self.config.coupling, self.config.source.seed
        # A relative eps is one to the cost between all data and all noise, for classes too.
        every = Targets(torch.from_numpy(self.features), device=self.device, team=self.team)
        std = solver.semidiscrete_cost_std(every, FeatureNoise(seed, self.dim, self.conditions, 0))
        if options.eps is None:
            assert options.rel_eps is not None
            eps, rel_eps = options.rel_eps * std, options.rel_eps
        else:
            eps, rel_eps = options.eps, options.eps / std if std > 0 else math.inf
        ids, targets = self.conditions.ids(problem, self.blocks.ids), every
        if len(ids) < self.blocks.ids:
            targets = Targets(torch.from_numpy(self.features[ids]), device=self.device, team=self.team)
        solved = solver.solve_semidiscrete(
            targets,
            FeatureNoise(seed, self.dim, self.conditions, problem),
            eps,
            chi2=options.chi2,
            max_rounds=options.max_passes,
            g0=None if self.start is None else torch.from_numpy(self.start[ids]),
            progress=checkpoint.progress_writer(_trail(self.directory, problem), self.team, options.chi2),
            resume=checkpoint.load_checkpoint(_trail(self.directory, problem)),
            save=checkpoint.checkpoint_writer(
                _trail(self.directory, problem), self.config.cluster.checkpoint_seconds, self.team
            ),
        )
        return problem, replace(solved, report=replace(solved.report, rel_eps=rel_eps))

    def write(self, solved: "tuple[int, Semidiscrete]") -> dict[str, Any]:
        """Write the potential, where it converged or the config accepts that it did not; returns the report."""
        problem, found = solved
        report = {"block": problem, **dataclasses.asdict(found.report)}
        if found.report.converged or self.config.coupling.on_unconverged == "record":
            with atomic_open(problem_file(self.directory, problem)) as stream:
                np.savez(stream, allow_pickle=False, g=found.g.cpu().numpy(), report=np.array(json.dumps(report)))
        checkpoint.remove_checkpoint(_trail(self.directory, problem))
        return report


def most_members(ids: int) -> int:
    """How many actors can share a problem of so many data; `ray.init` is the caller's."""
    import ray
    import torch

    from flowpairs.pipeline.ot.semidiscrete.targets import BATCH
    from flowpairs.pipeline.ot.tiles.tiling import sections

    return len(sections(ids, BATCH, torch.device("cuda" if ray.cluster_resources().get("GPU") else "cpu")))


def problem_file(directory: AnyPath, problem: int) -> AnyPath:
    """Where the potential of a problem is."""
    return directory / "potentials" / f"p{problem:06d}.npz"


def unsolved(directory: AnyPath, conditions: Conditions) -> list[int]:
    """The problems that are not solved yet."""
    return [problem for problem in conditions.problems() if not problem_file(directory, problem).is_file()]


def problem_numbers(config: CoupleConfig, directory: AnyPath) -> list[int]:
    """The numbers of a store's problems, from its files alone."""
    labels = None
    if config.coupling.condition == "class":
        labels = np.load(BytesIO((directory / "labels.npy").read_bytes()), allow_pickle=False)
    return Conditions(labels=labels).problems()


@dataclass(frozen=True)
class SolveProgress:
    """How far the potentials of a store are.

    Attributes:
        problems, solved: how many there are, and are done.
        share: of the work; a solve's chi-square falls as one over its points.
        text: the same in words.
    """

    problems: int
    solved: int
    share: float
    text: str


def solve_progress(directory: AnyPath, problems: list[int]) -> SolveProgress:
    """How far the potentials are, from the files alone."""
    solved = [problem for problem in problems if problem_file(directory, problem).is_file()]
    told = [line for problem in problems if (line := checkpoint.read_progress(_trail(directory, problem)))]
    shares = [min(ALMOST, line["wanted"] / max(line["chi2"], line["wanted"])) for line in told]
    parts = [f"{len(solved)}/{len(problems)} solved"] if len(problems) > 1 else []
    if told:
        worst = max(told, key=lambda line: line["chi2"])
        parts.append(
            f"round {worst['rounds']:.0f}  {sum(line['points'] for line in told):,.0f} points  "
            f"chi2 {worst['chi2']:.3g} of {worst['wanted']:g}"
        )
    done = (len(solved) + sum(shares)) / len(problems)
    return SolveProgress(len(problems), len(solved), min(1.0, done), "  ".join(parts))


def assemble_potentials(directory: AnyPath, conditions: Conditions, ids: int) -> Potentials:
    """Put the problems' potentials together, and write them."""
    g, reports = np.zeros(ids), []
    for problem in conditions.problems():
        with np.load(BytesIO(problem_file(directory, problem).read_bytes()), allow_pickle=False) as arrays:
            g[conditions.ids(problem, ids)] = arrays["g"]
            reports.append(json.loads(str(arrays["report"])))
    write_array(directory / "potentials" / "g.npy", g)
    notes = {"g_sha256": hashlib.sha256(g.data).hexdigest(), "problems": reports}
    write_atomically(directory / "potentials" / "semidiscrete.json", (json.dumps(notes, indent=1) + "\n").encode())
    return Potentials(g, reports[0]["eps"], reports)


def load_potentials(directory: AnyPath) -> Potentials:
    """The potentials of a store.

    Raises:
        InputError: it has none, or they are damaged.
    """
    folder = directory / "potentials"
    try:
        g = np.load(BytesIO((folder / "g.npy").read_bytes()), allow_pickle=False)
        notes = json.loads((folder / "semidiscrete.json").read_bytes())
        potentials = Potentials(g, float(notes["problems"][0]["eps"]), notes["problems"])
        intact = hashlib.sha256(g.data).hexdigest() == notes["g_sha256"]
    except Exception as error:  # files and parsers raise a dozen kinds of them
        raise InputError(
            f"{folder}: no potentials of a semi-discrete coupling ({error}); make them with `flowpairs couple CONFIG "
            "coupling.method=semidiscrete`"
        ) from error
    if g.dtype != np.float64 or g.ndim != 1 or not np.isfinite(g).all():
        raise InputError(f"{folder / 'g.npy'}: not one finite float64 a datum; couple into a new directory")
    if not intact:
        raise InputError(f"{folder / 'g.npy'}: another SHA-256 than when it was written; remove it and couple again")
    return potentials


def copy_potentials(source: AnyPath, destination: AnyPath) -> None:
    """Copy the potentials of one store into another.

    Raises:
        InputError: it has none, or they are damaged.
    """
    problems = [problem_file(source, report["block"]).name for report in load_potentials(source).reports]
    for name in ("g.npy", "semidiscrete.json", *problems):
        if (source / "potentials" / name).is_file():
            write_atomically(destination / "potentials" / name, (source / "potentials" / name).read_bytes())


def unconverged(report: dict[str, Any], wanted: float) -> JobError:
    """The sentence for a solve that did not get there."""
    return JobError(
        f"the potential of problem {report['block']} reached chi2={report['chi2']:.3g} instead of {wanted:g} after "
        f"{report['rounds']} rounds; raise coupling.chi2, coupling.max_passes or the epsilon, or accept it with "
        "coupling.on_unconverged=record"
    )


def _trail(directory: AnyPath, problem: int) -> AnyPath:
    return directory / "potentials" / f"p{problem:06d}.trail.npz"

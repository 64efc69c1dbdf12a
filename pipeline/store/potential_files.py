"""The files in DIR/potentials: their names, readers and writers.

b000000.npy              g of the target rows of one block, float64
b000000.checkpoint.npz   checkpoint of that block's solve
p000000.npz              semi-discrete: g of the data of one problem, and its report; one problem, or one per class
p000000.checkpoint.npz   checkpoint of that problem's solve; p000000.checkpoint.json is its progress for people to read
g.npy                    semi-discrete: g of every data id, once all problems are solved
semidiscrete.json        the problems' reports, and the SHA-256 of g
"""

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float64

from flowpairs.pipeline.base.atomic import atomic_open, write_array, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import decode_npy, load_npz
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store.checkpoints import read_progress
from flowpairs.pipeline.store.format import rows_directory

ALMOST = 0.99  # largest share that is reported of a solve that has not ended


def block_file(directory: AnyPath, block: int) -> AnyPath:
    """Path of the potential of a block's target rows."""
    return directory / "potentials" / f"b{block:06d}.npy"


def block_checkpoint(directory: AnyPath, block: int) -> AnyPath:
    """Path of the checkpoint of a block's solve."""
    return directory / "potentials" / f"b{block:06d}.checkpoint.npz"


def problem_file(directory: AnyPath, problem: int) -> AnyPath:
    """Path of the potential of a semi-discrete problem."""
    return directory / "potentials" / f"p{problem:06d}.npz"


def problem_checkpoint(directory: AnyPath, problem: int) -> AnyPath:
    """Path of the checkpoint of a semi-discrete problem's solve."""
    return directory / "potentials" / f"p{problem:06d}.checkpoint.npz"


@dataclass(frozen=True)
class Potentials:
    """A solved semi-discrete coupling.

    Attributes:
        g: potential of every data id, in units of the cost.
        eps: absolute epsilon, the same for all problems.
        reports: reports of the problems in the form of `flowpairs.pipeline.ot.semidiscrete.solver.SemidiscreteReport`,
            with the problems' numbers.
    """

    g: Float64[np.ndarray, " ids"]
    eps: float
    reports: list[dict[str, Any]]

    @property
    def chi2(self) -> float:
        """Largest chi-square of a problem."""
        return max(report["chi2"] for report in self.reports)

    @property
    def rel_eps(self) -> float:
        """Relative epsilon: eps / std(C), over all data."""
        return self.reports[0]["rel_eps"]


def block_potentials(directory: AnyPath, blocks: Blocks) -> Float64[np.ndarray, " ids"]:
    """Read the potential of every data id from a store's blocks; NaN for ids that are in no block.

    An id has the value of the first block that it is in. Each block's potential is centred, as it is determined only up
    to a constant.

    Raises:
        InputError: a block's potential is missing or damaged.
    """
    g = np.full(blocks.ids, np.nan)
    for block in range(blocks.count):
        ids = blocks.data_ids(block)
        new = np.isnan(g[ids])
        if not new.any():
            continue
        path = block_file(directory, block)
        try:
            values = decode_npy(_bytes(path))
            g[ids[new]] = (values - values.mean())[new]
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise InputError(f"{path}: not the potential of a block ({error}); couple again") from error
        if not np.isnan(g).any():
            break
    return g


def _bytes(path: AnyPath) -> bytes:
    refuse_special(path)
    return path.read_bytes()


def write_problem(directory: AnyPath, problem: int, g: Float64[np.ndarray, " k"], report: dict[str, Any]) -> None:
    """Write the potential of a semi-discrete problem, with its report."""
    with atomic_open(problem_file(directory, problem)) as stream:
        np.savez(stream, allow_pickle=False, g=g, report=np.array(json.dumps(report)))


def unsolved(directory: AnyPath, conditions: Conditions) -> list[int]:
    """List the semi-discrete problems whose potential is not there yet."""
    return [problem for problem in conditions.problems() if not problem_file(directory, problem).is_file()]


def problem_numbers(config: CoupleConfig, directory: AnyPath) -> list[int]:
    """List the semi-discrete problems of a store, from its files alone."""
    labels = None
    where = rows_directory(directory)
    if config.coupling.condition == "class" and (where / row_set.MANIFEST).is_file():  # else rows are still being made
        labels = row_set.read_column(where, row_set.read_manifest(where), "label")
    return Conditions(labels=labels).problems()


@dataclass(frozen=True)
class SolveProgress:
    """How much of a store's potentials is solved.

    Attributes:
        problems: number of problems.
        solved: number of solved problems.
        share: share of the work that is done, 0 to 1; a solve's chi-square falls as one over its points.
        text: the same in words.
    """

    problems: int
    solved: int
    share: float
    text: str


def solve_progress(directory: AnyPath, problems: list[int]) -> SolveProgress:
    """Read the progress of the potentials, from the files alone."""
    solved = [problem for problem in problems if problem_file(directory, problem).is_file()]
    lines = [line for problem in problems if (line := read_progress(problem_checkpoint(directory, problem)))]
    shares = [min(ALMOST, line["target"] / max(line["chi2"], line["target"])) for line in lines]
    parts = [f"{len(solved)}/{len(problems)} solved"] if len(problems) > 1 else []
    if lines:
        worst = max(lines, key=lambda line: line["chi2"])
        parts.append(
            f"round {worst['rounds']:.0f}  {sum(line['points'] for line in lines):,.0f} points  "
            f"chi2 {worst['chi2']:.3g} of {worst['target']:g}"
        )
    done = (len(solved) + sum(shares)) / len(problems)
    return SolveProgress(len(problems), len(solved), min(1.0, done), "  ".join(parts))


def assemble_potentials(directory: AnyPath, conditions: Conditions, ids: int) -> Potentials:
    """Join the problems' potentials, and write g.npy and semidiscrete.json."""
    parts = []
    for problem in conditions.problems():
        path = problem_file(directory, problem)
        try:
            arrays = load_npz(BytesIO(_bytes(path)))
            parts.append((arrays["g"], json.loads(str(arrays["report"]))))
        except Exception as error:  # zip and header parsers raise a dozen kinds of exceptions
            raise InputError(f"{path}: not the potential of a problem ({error}); remove it and couple again") from error
    found = join_potentials(parts, conditions, ids)
    write_array(directory / "potentials" / "g.npy", found.g)
    notes = {"g_sha256": hashlib.sha256(found.g.data).hexdigest(), "problems": found.reports}
    write_atomically(directory / "potentials" / "semidiscrete.json", (json.dumps(notes, indent=1) + "\n").encode())
    return found


def join_potentials(
    parts: list[tuple[Float64[np.ndarray, "_"], dict[str, Any]]], conditions: Conditions, ids: int
) -> Potentials:
    """Join the problems' potentials, given in the order of `conditions.problems()`, into one value per data id."""
    g = np.zeros(ids)
    for problem, (values, _) in zip(conditions.problems(), parts, strict=True):
        g[conditions.ids(problem, ids)] = values
    reports = [report for _, report in parts]
    return Potentials(g, reports[0]["eps"], reports)


def load_potentials(directory: AnyPath) -> Potentials:
    """Read the potentials of a semi-discrete store.

    Raises:
        InputError: the store has none, or they are damaged.
    """
    folder = directory / "potentials"
    try:
        g = decode_npy(_bytes(folder / "g.npy"))
        notes = json.loads(_bytes(folder / "semidiscrete.json"))
        potentials = Potentials(g, float(notes["problems"][0]["eps"]), notes["problems"])
        numbers = [float(report[key]) for report in potentials.reports for key in ("block", "rel_eps", "chi2")]
        intact = hashlib.sha256(g.data).hexdigest() == notes["g_sha256"]
    except Exception as error:  # files and parsers raise a dozen kinds of exceptions
        raise InputError(
            f"{folder}: no potentials of a semi-discrete coupling ({error}); make them with `flowpairs couple CONFIG "
            "coupling.method=semidiscrete`"
        ) from error
    if g.dtype != np.float64 or g.ndim != 1 or not np.isfinite(g).all():
        raise InputError(f"{folder / 'g.npy'}: not one finite float64 per data id; couple into a new directory")
    if not intact or not numbers:
        raise InputError(f"{folder / 'g.npy'}: another SHA-256 than when it was written; remove it and couple again")
    return potentials


def copy_potentials(source: AnyPath, destination: AnyPath) -> None:
    """Copy the potentials of one semi-discrete store into another.

    Raises:
        InputError: the source has none, or they are damaged.
    """
    problems = [problem_file(source, report["block"]).name for report in load_potentials(source).reports]
    for name in ("g.npy", "semidiscrete.json", *problems):
        if (source / "potentials" / name).is_file():
            write_atomically(destination / "potentials" / name, (source / "potentials" / name).read_bytes())

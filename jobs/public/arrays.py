"""Couplings of arrays in memory, without Ray or files; a job that reads the same arrays gives the same numbers."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.blocks.source import Leg, SourceData
from flowpairs.pipeline.config import CoupleConfig, CouplingConfig, validate
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.data.schema import to_uniform
from flowpairs.pipeline.solve.inputs import Inputs
from flowpairs.pipeline.solve.job import Job

if TYPE_CHECKING:
    import torch

    from flowpairs.pipeline import ot

    Array = np.ndarray | torch.Tensor
    Cost = str | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Pairs:
    """Pairs drawn from a coupling: row k of `x0` is paired with row k of `x1`.

    Arrays are numpy arrays, or torch tensors on the device of `x1` if `couple` was given tensors.

    Attributes:
        x0: the source rows [n, ...], float32.
        x1: the target rows [n, ...], float32.
        data_ids: the row number of each target in the given x1 [n], int64.
        source_ids: the row number of each source in the given x0 [n], int64; None if the source is noise.
        report: figures on the coupling, such as sharpness and costs: the row of blocks.parquet in a pair store.
    """

    x0: "Array"
    x1: "Array"
    data_ids: "Array"
    source_ids: "Array | None"
    report: dict[str, Any]

    def __len__(self) -> int:
        return len(self.data_ids)


class Coupling:
    """A coupling of two sets of points, as `solve` returns it.

    Attributes:
        potentials: the potentials f [n] and g [m], float64 in units of the cost, with the coupling
            P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps); None for methods exact and independent.
        marginals: the marginals a [n] and b [m] of that coupling, float64: the weights that were given, or with `relax`
            those that the plan has, divided by its mass, which is `report.mass`.
        report: figures on the coupling: method, eps, sharpness, partners per row, marginal errors, costs, passes.
    """

    def __init__(self, found: "ot.Coupling", back: "Callable[[torch.Tensor], Array]") -> None:
        self._found, self._back, self.report = found, back, found.report
        f = getattr(found, "f", None)
        a, b = found.problem.weights()
        self.marginals = back(a), back(b)
        self.potentials = None if f is None or found.g is None else (back(f), back(found.g))

    def sample(self, seed: int = 0) -> "Array":
        """Draw one partner for every source row.

        Args:
            seed: the seed of the draws; the same seed gives the same partners.

        Returns:
            The numbers of the target rows [n], int64.
        """
        import torch

        from flowpairs.pipeline.blocks import noise

        u = torch.from_numpy(noise.uniforms(seed, noise.Stream.DRAW, 0, self._found.problem.n))
        return self._back(self._found.draw(u.to(self._found.problem.x0.device)))

    def argmax(self) -> "Array":
        """Find the most likely partner of every source row.

        Returns:
            The numbers of the target rows [n], int64.
        """
        return self._back(self._found.argmax())

    def barycentric(self, values: "Array | None" = None) -> "Array":
        """Compute the mean partner of every source row: the barycentric projection.

        Args:
            values: the values to average, one row per target row [m, q]; None: the target rows [m, d].

        Returns:
            The means over the partners of each source row, [n, d] or [n, q].

        Raises:
            InputError: `values` is not a matrix with m rows.
        """
        import torch

        x1 = self._found.problem.x1
        given = x1 if values is None else torch.as_tensor(values).to(x1.device, x1.dtype)
        if given.ndim != 2 or len(given) != len(x1):
            raise InputError(f"values: shape {tuple(given.shape)}; give one row for each of {len(x1)} target rows")
        return self._back(self._found.barycentric(given))


def couple(
    x1: "Array",
    *,
    x0: "Array | None" = None,
    n: int | None = None,
    rel_eps: float | None = None,
    eps: float | None = None,
    sharpness: float | None = None,
    method: str = "sinkhorn",
    cost: "Cost" = "dot",
    pca: int | None = None,
    draw: str = "categorical",
    seed: int = 0,
    device: str | None = None,
    **options: Any,
) -> Pairs:
    """Couple data with noise, or with other data, and draw n pairs: the pairs of block 0 of a coupling job.

    Args:
        x1: the data [N, ...]: vectors [N, d] or images; uint8 images are scaled to [-1, 1], as in files.
        x0: the source data [M, ...], with the same shape per row; None: standard Gaussian noise from `seed`.
        n: the number of pairs, which is also the size of the coupling; None: the number of rows of the larger side.
        rel_eps: the regularisation eps relative to the standard deviation of the cost. Give at most one of rel_eps,
            eps and sharpness; the default is rel_eps=0.1, and 0 for method semidiscrete.
        eps: the regularisation in units of the cost.
        sharpness: the normalised entropy E that eps is chosen for: 0 is a permutation, 1 independent pairs
            (arXiv 2506.05526).
        method: the method: sinkhorn, exact, independent or semidiscrete.
        cost: the cost: dot, sqeuclidean, geodesic, a formula such as "keops:Sum(Abs(X - Y))", or a function of two
            tiles of features [r, k], [c, k] -> [r, c] that is defined at the top level of a module or notebook.
        pca: the number of principal directions that the cost sees; None: all coordinates.
        draw: how pairs are drawn: categorical, or balanced, which uses every datum equally often.
        seed: the seed of the noise, of the choice of data and of the draws.
        device: the device to compute on; None: the device of x1.
        **options: further keys of `coupling:` in a configuration, such as tol or max_passes.

    Returns:
        The n pairs, with figures on the coupling.

    Raises:
        InputError: a ValueError that names the argument, the value and the remedy.
    """
    import torch

    from flowpairs.pipeline.solve.block_solver import BlockSolver

    where = device or (x1.device.type if isinstance(x1, torch.Tensor) else "cpu")
    with _arguments():
        target, source = as_rows(x1, "x1"), None if x0 is None else as_rows(x0, "x0")
        if source is not None and source.shape != target.shape:
            raise InputError(f"x0: rows of shape {list(source.shape)}, those of x1 have {list(target.shape)}")
        size = n if n is not None else max(len(target), 0 if source is None else len(source))
        coupling = {"method": method, "n": size, "cost": _name(cost), **options}
        coupling |= {"rel_eps": rel_eps, "eps": eps, "sharpness": sharpness}
        most = max(len(target), 0 if source is None else len(source))
        if size > most and method != "semidiscrete":
            coupling["resample"] = "repeat"
        noise_or_data = {"kind": "gaussian"} if source is None else {"kind": "data", "path": "x0"}
        tree = {
            "data": {"path": "x1"},
            "source": {**noise_or_data, "seed": seed},
            "features": {"pca": pca},
            "coupling": coupling,
            "sampling": {"draw": draw},
            "output": {"dir": "memory", "pairs": size},
            "cluster": {"actors": 0},
        }
        config = validate(CoupleConfig, tree)
        config.coupling.cost_function()
        inputs = Inputs(Target(target, None, 0, ""), _source(source, len(target)))
        blocks = divide(config, len(target), inputs.source)
        job = Job(config, None, blocks, inputs).with_features()
        threads, potentials = torch.get_num_threads(), None
        if method == "semidiscrete":
            from flowpairs.pipeline.solve.potentials import all_potentials

            potentials = all_potentials(job, threads, where)
        solver = BlockSolver(job, threads, where, potentials)
        solved = solver.solve(0)
        if not solved.report["converged"] and config.coupling.on_unconverged == "fail":
            raise InputError(
                f"max_passes={config.coupling.max_passes}: not converged after {solved.report['passes']} passes; raise "
                "it, tol or the regularisation, or accept it with on_unconverged='record'"
            )
    pairs, back = solved.pairs, _back(x1)
    return Pairs(
        x0=back(torch.from_numpy(np.ascontiguousarray(solver.x0_of(pairs)))),
        x1=back(torch.from_numpy(target.read(pairs.data_ids))),
        data_ids=back(torch.from_numpy(pairs.data_ids)),
        source_ids=None if pairs.source_ids is None else back(torch.from_numpy(pairs.source_ids)),
        report=solved.report,
    )


def solve(
    x0: "Array",
    x1: "Array",
    *,
    a: "Array | None" = None,
    b: "Array | None" = None,
    rel_eps: float | None = None,
    eps: float | None = None,
    sharpness: float | None = None,
    method: str = "sinkhorn",
    cost: "Cost" = "dot",
    device: str | None = None,
    **options: Any,
) -> Coupling:
    """Solve for the coupling of two sets of points; the cost is computed on the points as given.

    Args:
        x0: the source rows [n, d], float32 or float64.
        x1: the target rows [m, d], of the same dtype.
        a: the weights of the source rows [n], not negative and with sum 1; None: uniform.
        b: the weights of the target rows [m], not negative and with sum 1; None: uniform.
        rel_eps: the regularisation eps relative to the standard deviation of the cost. Give at most one of rel_eps,
            eps and sharpness; the default is rel_eps=0.1.
        eps: the regularisation in units of the cost.
        sharpness: the normalised entropy E that eps is chosen for: 0 is a permutation, 1 independent pairs
            (arXiv 2506.05526).
        method: the method: sinkhorn, exact or independent.
        cost: the cost: dot, sqeuclidean, geodesic, a formula such as "keops:Sum(Abs(X - Y))", or a function of two
            tiles of points [r, d], [c, d] -> [r, c] that is defined at the top level of a module or notebook.
        device: the device to compute on; None: the device of x1.
        **options: further keys of `coupling:` in a configuration, such as tol or max_passes.

    Returns:
        The coupling, to draw partners from.

    Raises:
        InputError: a ValueError that names the argument, the value and the remedy.
    """
    import torch

    from flowpairs.pipeline.solve.draw import build_problem, solve_block

    def tensor(values: "Array | None") -> Any:
        return None if values is None else torch.as_tensor(values).to(where)

    where = device or (x1.device.type if isinstance(x1, torch.Tensor) else "cpu")
    with _arguments():
        if method not in ("sinkhorn", "exact", "independent"):
            raise InputError(f"method={method!r}: not one of two sets of points; give sinkhorn, exact or independent")
        given = {"method": method, "n": len(x0), "cost": _name(cost), **options}
        settings = validate(CouplingConfig, given | {"rel_eps": rel_eps, "eps": eps, "sharpness": sharpness})
        for name, points in (("x0", x0), ("x1", x1)):
            if np.ndim(points) != 2:
                raise InputError(f"{name}: shape {tuple(np.shape(points))}; give a matrix, one point per row")
        problem = build_problem(settings, tensor(x0), tensor(x1), tensor(a), tensor(b))
        return Coupling(solve_block(settings, problem), _back(x1))


def as_rows(values: "Array", name: str) -> Rows:
    """Convert an argument to rows, by the rules for files: channels first, uint8 scaled to [-1, 1] when it is used."""
    import torch

    given = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if given.ndim < 2 or not len(given):
        raise InputError(f"{name}: shape {list(given.shape)}; give at least one row of numbers, [N, d] or images")
    return Rows.of(to_uniform(given, name))


def _source(rows: Rows | None, targets: int) -> SourceData | None:
    if rows is None:
        return None
    leg = Leg(np.arange(len(rows)), np.arange(targets))
    return SourceData(rows, flips=False, weights=None, fingerprint="", columns_fingerprint=None, legs=(leg,))


def _name(cost: "Cost") -> str:
    """Return the name of a cost in a configuration, `module:function` for a function."""
    if isinstance(cost, str):
        return cost
    import sys

    module, name = getattr(cost, "__module__", ""), getattr(cost, "__qualname__", "")
    if getattr(sys.modules.get(module), name, None) is not cost:
        raise InputError(f"cost={cost!r}: cannot be named; give a function defined at the top of a module or notebook")
    return f"{module}:{name}"


def _back(like: "Array") -> "Callable[[torch.Tensor], Array]":
    """Return a function that converts results to the type and device of a given array."""
    import torch

    if isinstance(like, torch.Tensor):
        return lambda values: values.to(like.device)
    return lambda values: values.cpu().numpy()


@contextmanager
def _arguments() -> Iterator[None]:
    """Make error messages name arguments rather than keys of a configuration."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"\b(coupling|features|sampling|source|config)[.:] ?", "", str(error))) from error

"""The exact coupling, by POT's network simplex (Bonneel et al. 2011), for blocks of up to about 10,000 rows."""

import time

import numpy as np
import torch

from flowpairs.pipeline.base.environment import available_memory
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.coupling import BlockReport, SparseCoupling
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sharpness import spread_of, transport_costs
from flowpairs.pipeline.ot.tiles.kernel import kernel_of

# float64 cost and plan, and about 32 bytes per arc inside the network simplex (measured, POT 0.9.7).
BYTES_PER_ENTRY = 48


def exact_memory(n: int, m: int) -> int:
    """Return the bytes that `solve_exact` takes at its peak."""
    return BYTES_PER_ENTRY * n * m


def check_exact_memory(n: int, m: int) -> None:
    """Refuse a problem whose dense matrices do not fit in memory.

    Raises:
        InputError: an n x m problem needs more memory than is available.
    """
    needed, free = exact_memory(n, m), available_memory()
    if needed > free:
        side = int((free / BYTES_PER_ENTRY) ** 0.5)
        raise InputError(
            f"coupling.method=exact: {n} x {m} rows need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            f"free; use blocks of at most {side} rows or method sinkhorn"
        )


def solve_exact(problem: Problem) -> SparseCoupling:
    """Solve min <P, C> over couplings of the marginals, in float64.

    Raises:
        InputError: the dense problem does not fit in the available memory.
    """
    import ot  # slow to import, and only this function needs it

    started = time.perf_counter()
    n, m = problem.n, problem.m
    check_exact_memory(n, m)
    a, b = problem.weights()
    device = a.device
    kernel = kernel_of(problem)
    cost = kernel.dense().cpu().numpy()  # without the part that the potentials absorb, which would cost the dual digits
    unit = np.abs(cost).max() or 1.0  # the library's tolerance is absolute
    plan, log = ot.emd(a.cpu().numpy(), b.cpu().numpy(), cost / unit, numItermax=10**9, log=True)
    assert log["warning"] is None, log["warning"]
    v = torch.from_numpy(np.asarray(log["v"]) * unit).to(device)
    source, target = torch.from_numpy(plan.sum(1)).to(device), torch.from_numpy(plan.sum(0)).to(device)
    errors = (source - a).abs().sum().item(), (target - b).abs().sum().item()

    entropy_nats = -(plan[plan > 0] * np.log(plan[plan > 0])).sum()
    moment = float((plan * cost).sum())
    idle = (plan.sum(1) == 0).nonzero()[0]
    plan[idle, (v.cpu().numpy() - cost[idle]).argmax(1)] = 1.0  # see SparseCoupling: rows of zero weight
    i, j = plan.nonzero()
    starts = np.searchsorted(i, np.arange(n + 1))
    independent_cost, coupled_cost = transport_costs(kernel, target, moment)
    spread = spread_of(float(entropy_nats), a, b)
    report = BlockReport(
        method="exact",
        n=n,
        m=m,
        eps=None,
        rel_eps=None,
        sharpness=spread.sharpness,
        partners=spread.partners,
        partners_of_target=spread.partners_of_target,
        source_error=errors[0],
        target_error=errors[1],
        plan_error=max(errors),
        cost_independent=independent_cost,
        cost_coupled=coupled_cost,
        passes=0,
        converged=True,
        seconds=time.perf_counter() - started,
    )
    starts_, j_, mass = (torch.from_numpy(part).to(device) for part in (starts, j, plan[i, j]))
    return SparseCoupling(problem, starts_, j_, mass, v + kernel.q, report)

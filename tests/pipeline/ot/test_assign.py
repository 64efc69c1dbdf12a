"""Assignment against a float64 loop over the points, whatever the size of the calls; balanced use against its bound."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from support.ot_problems import uniforms
from support.semidiscrete import partners_by_hand
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.partners.balance import relabel
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment

N, D, POINTS = 700, 6, 300


def problem(n: int = N, offset: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Data, a potential, and points."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(n, D, generator=random, dtype=torch.float64) * torch.linspace(0.3, 3, D)
    g = torch.randn(n, generator=random, dtype=torch.float64)
    return (y + offset).float(), g, torch.randn(POINTS, D, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("n", [1, 2, 129, 3000])
def test_partners_are_those_of_a_float64_loop(eps: float, n: int) -> None:
    y, g, x = problem(n)
    u = uniforms(POINTS)
    assert Assignment(y, g, eps).partners(x, u).tolist() == partners_by_hand(y, g, eps, x, u)


def test_points_that_float32_cannot_decide_get_the_partner_of_float64() -> None:
    """Each datum has near copies in other tiles, so that every point is in doubt, in batches of more than one."""
    random = torch.Generator().manual_seed(0)
    y = torch.randn(900, 8, generator=random, dtype=torch.float64).repeat(5, 1)
    y += 1e-9 * torch.randn(y.shape, generator=random, dtype=torch.float64)
    g = torch.randn(900, generator=random, dtype=torch.float64).repeat(5) / 10
    x = torch.randn(700, 8, generator=random, dtype=torch.float64)
    scores = g + x @ (y - y.mean(0)).T
    assert ((scores.float() == scores.float().amax(1, keepdim=True)).sum(1) > 1).all()
    partners = Assignment(y, g, 0.0).partners(x, torch.zeros(700, dtype=torch.float64))
    assert torch.equal(partners, scores.argmax(1))


def test_weights_and_offsets_of_the_data() -> None:
    y, g, x = problem(offset=1e4)
    b = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    b /= b.sum()
    u = uniforms(POINTS)
    centred = y.double() - y.double().mean(0)
    assert Assignment(y, g, 0.5, b).partners(x, u).tolist() == partners_by_hand(centred, g, 0.5, x, u, b)
    assert Assignment(y, g, 0.0).partners(x, u).tolist() == partners_by_hand(centred, g, 0.0, x, u)


def test_equal_data_share_points_by_their_weights() -> None:
    y, g, x = problem()
    b = torch.cat([torch.full((N,), 0.7), torch.full((N,), 0.3)]).double() / N
    twice = Assignment(torch.cat([y, y]), torch.cat([g, g]), 0.0, b)
    u, alone = uniforms(POINTS), Assignment(y, g, 0.0).partners(x, uniforms(POINTS))
    assert torch.equal(twice.partners(x, u), alone + N * (u >= 0.7))
    assert twice.nats(x) == pytest.approx(POINTS * -(0.7 * math.log(0.7) + 0.3 * math.log(0.3)))
    assert torch.equal(twice.worth(x, alone), twice.worth(x, alone + N))
    # Of a datum and a copy with a lower potential the copy gets nothing.
    lower = Assignment(torch.cat([y, y]), torch.cat([g, g - 1e-9]), 0.0, b)
    assert torch.equal(lower.partners(x, u), alone)


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_partner_does_not_depend_on_the_points_beside_it_nor_on_threads(eps: float) -> None:
    y, g, x = problem()
    u, assignment = uniforms(POINTS), Assignment(y, g, eps)
    whole = assignment.partners(x, u)
    for size in (1, 7, 600):
        parts = [assignment.partners(*part) for part in zip(x[:60].split(size), u[:60].split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole[:60])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(assignment.partners(x, u), whole)
    finally:
        torch.set_num_threads(threads)


def test_draws_have_the_softmax_probabilities() -> None:
    y, g, x = problem(40)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = Assignment(y, g, 1.0).partners(x[:1].expand(20_000, -1), u)
    share = torch.bincount(drawn, minlength=40) / 20_000
    assert torch.allclose(share.double(), (g + y.double() @ x[0]).softmax(0), atol=1.1 / 20_000)


def test_entropy_of_partners() -> None:
    y, g, x = problem(50)
    p = ((g + x @ y.double().T) / 0.7).softmax(1)
    assert Assignment(y, g, 0.7).nats(x) == pytest.approx(torch.special.entr(p).sum().item(), rel=1e-9)
    assert Assignment(y, g, 0.0).nats(x) == 0


def test_relabelling_changes_the_fewest_partners_and_loses_little() -> None:
    y, g, x = problem(60)
    assignment = Assignment(y, 0.1 * g, 0.0)
    before = assignment.partners(x, uniforms(POINTS))
    room = torch.full((60,), POINTS // 60)
    after, changed = relabel(assignment, x, before, room)
    assert torch.equal(torch.bincount(after, minlength=60), room)
    fewest = (torch.bincount(before, minlength=60) - room).clamp(min=0).sum().item()
    assert changed == fewest == (before != after).sum().item()
    # Against the best assignment of all, which may change any number of partners.
    worth = 0.1 * g + x @ y.double().T
    rows, slots = linear_sum_assignment(worth.repeat_interleave(POINTS // 60, 1).numpy(), maximize=True)
    best = worth[rows, slots // (POINTS // 60)].sum()
    unbound = worth.amax(1).sum()
    assert unbound - worth[range(POINTS), after].sum() < 2 * (unbound - best)


def test_bad_input_is_refused_in_a_sentence() -> None:
    y, g, _ = problem()
    for arguments, sentence in (
        ((y, g.clone().fill_(torch.nan), 0.0), "one finite value a datum"),
        ((y, g, -1.0), "eps=-1.0"),
    ):
        with pytest.raises(InputError, match=sentence):
            Assignment(*arguments)

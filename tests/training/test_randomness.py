"""The randomness of a step: one draw over the global batch, shared out among the workers, distributed as told."""

import numpy as np
import pytest
import scipy.stats
import torch

from flowpairs.training.config import TimesConfig
from flowpairs.training.objectives.randomness import Purpose, normals, step_uniforms, times
from flowpairs.training.pairs.batch import BatchPart, BatchRows


@pytest.mark.parametrize("purpose", Purpose)
def test_uniforms_are_one_draw_shared_out_among_the_workers(purpose: Purpose) -> None:
    alone = step_uniforms(3, 17, BatchRows(0, 24, 24), purpose)
    for world in (2, 3, 8):
        parts = [step_uniforms(3, 17, BatchPart(24, rank, world, 4).rows, purpose) for rank in range(world)]
        assert torch.equal(torch.cat(parts), alone)
    assert not torch.equal(step_uniforms(3, 18, BatchRows(0, 24, 24), purpose), alone)
    many = torch.cat([step_uniforms(0, step, BatchRows(0, 1000, 1000), purpose) for step in range(20)])
    assert scipy.stats.kstest(many.double().numpy(), "uniform").pvalue > 1e-3


def test_purposes_do_not_follow_each_other() -> None:
    rows = BatchRows(0, 4000, 4000)
    drawn = torch.stack([step_uniforms(0, 0, rows, purpose) for purpose in Purpose])
    assert (torch.corrcoef(drawn) - torch.eye(len(Purpose))).abs().max() < 4 / 4000**0.5


def test_times_of_earlier_versions_are_the_same() -> None:
    """A run that they began goes on with the same draws."""
    state = np.random.SeedSequence([5, 11]).generate_state(1, np.uint64)[0]
    before = torch.rand(16, generator=torch.Generator().manual_seed(int(state)))
    assert torch.equal(times(TimesConfig(), step_uniforms(5, 11, BatchRows(0, 16, 16), Purpose.TIMES)), before)


def test_normals_are_one_draw_shared_out_among_the_workers() -> None:
    alone = normals(3, 17, BatchRows(0, 24, 24), (2, 5))
    for world in (2, 3, 8):
        assert torch.equal(
            torch.cat([normals(3, 17, BatchPart(24, rank, world, 4).rows, (2, 5)) for rank in range(world)]), alone
        )
    many = torch.cat([normals(0, step, BatchRows(0, 1000, 1000), (3,)) for step in range(7)])
    assert scipy.stats.kstest(many.double().flatten().numpy(), "norm").pvalue > 1e-3
    assert len(torch.unique(many, dim=0)) == 7000  # steps share no row


def test_normals_are_not_the_noise_of_a_store_with_the_same_seed() -> None:
    from flowpairs.pipeline.blocks import noise

    rows = BatchRows(0, 4000, 4000)
    both = torch.cat([normals(0, 0, rows, (1,)), torch.from_numpy(noise.gaussian(0, 0, 4000, 1))], 1)
    assert torch.corrcoef(both.T)[0, 1].abs() < 4 / 4000**0.5


def test_logit_normal_times_have_their_distribution() -> None:
    u = torch.cat([step_uniforms(0, step, BatchRows(0, 1000, 1000), Purpose.TIMES) for step in range(10)])
    drawn = times(TimesConfig(kind="logit-normal", mean=-0.4, std=0.7), u).double()
    assert scipy.stats.kstest(torch.logit(drawn).numpy(), "norm", (-0.4, 0.7)).pvalue > 1e-3


def test_times_keep_off_both_sides() -> None:
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    torch.testing.assert_close(times(TimesConfig(), u, 0.01), torch.tensor([0.01, 0.5, 0.99]))
    logit = times(TimesConfig(kind="logit-normal"), u, 0.01)
    assert torch.isfinite(logit).all()
    assert ((logit >= 0.01) & (logit <= 0.99)).all()

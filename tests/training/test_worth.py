"""What pairs are worth: held to closed forms, ordered as couplings are, and refused where pairs cannot say it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.couplings import couple_here, settings
from support.stores import write_store
from torch import Tensor
from typer.testing import CliRunner

import flowpairs
from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import read_index, write_index
from flowpairs.training.metrics.velocity_estimate import VelocityEstimate
from flowpairs.training.metrics.worth import EULER, measure_worth, worth_of_stores, worth_table

SCALES = torch.tensor([1.5, 1.2, 0.9, 0.7, 0.5, 0.3])  # standard deviations of the data, coordinate by coordinate


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_independent_gaussians_have_the_velocity_floor_and_curvature_of_the_closed_form() -> None:
    """u and x_t are jointly Gaussian: v = x cov(u, x_t) / var(x_t), and trajectories are z_t = sd(x_t) z_0."""
    x0, x1 = drawn(2048, 6), drawn(2048, 6, seed=1) * SCALES
    v, s = VelocityEstimate(x0[:1024], x1[:1024]), SCALES.double()
    for t in (0.0, 0.25, 0.5, 0.875):
        x = torch.lerp(x0, x1, t)[1024:]
        truth = x * (t * s**2 - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2)
        error = (v(torch.tensor([t]), x) - truth).square().sum(1).mean() / truth.square().sum(1).mean()
        assert error < 0.05
    _, found = measure_worth(x0, x1, held_out=1024)
    assert found.floor == pytest.approx(math.pi / 2 * s.sum().item(), rel=0.05)  # int s^2 / ((1 - t)^2 + t^2 s^2) dt
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    speed = (t * s**2 - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2).sqrt()  # d sd(x_t) / dt
    curvature = torch.trapezoid((speed - (s - 1)).square().sum(1), dx=1e-4).item()
    assert found.curvature == pytest.approx(curvature, rel=0.15)
    one_step = ((s - 0) ** 2).sum().item()  # v(0, x) = -x, so one step of Euler ends at 0, and the trajectory at s z_0
    assert found.errors[1] == pytest.approx(one_step, rel=0.15)


def test_the_transport_map_of_gaussians_has_no_loss_no_curvature_and_no_error() -> None:
    x0 = drawn(1280, 6)
    _, found = measure_worth(x0, x0 * SCALES, held_out=256)
    for figure in (found.floor, found.curvature, *found.errors.values()):
        assert 0 <= figure < 1e-5


def test_a_velocity_that_is_no_affine_map_is_found() -> None:
    """Data at -2 and 2: E[x1 | x_t = x] = 2 tanh(2 t x / (1 - t)^2)."""
    x0, x1 = drawn(1024, 1), 2 * drawn(1024, 1, seed=1).sign()
    v = VelocityEstimate(x0, x1)
    for t in (0.5, 0.75):
        x = torch.lerp(drawn(500, 1, seed=2), 2 * drawn(500, 1, seed=3).sign(), t)
        truth = (2 * torch.tanh(2 * t * x / (1 - t) ** 2) - x) / (1 - t)
        slope = (x * truth).sum() / x.square().sum()
        error = (v(torch.tensor([t]), x) - truth).square().mean()
        assert error < 0.2 * (slope * x - truth).square().mean()  # of the best linear map


def test_figures_fall_as_the_coupling_grows_and_as_it_sharpens(tmp_path: Path) -> None:
    """Noise with eight points on a circle: exact couplings of 1 (independent), 8 and 256 pairs at a time."""
    angle = torch.arange(1280) % 8 * (math.pi / 4)
    data = (
        3 * torch.stack([angle.cos(), angle.sin()], 1)[torch.randperm(1280, generator=torch.Generator().manual_seed(0))]
    )
    stores = []
    for n in (1, 8, 256):
        parts = [
            flowpairs.couple(data[first : first + n].numpy(), n=n, method="exact", seed=first)
            if n > 1
            else flowpairs.couple(data.numpy(), method="independent")
            for first in (range(0, len(data), n) if n > 1 else [0])
        ]
        x0, x1 = (np.concatenate([getattr(part, side) for part in parts]) for side in ("x0", "x1"))
        order = np.random.default_rng(0).permutation(len(x0))
        stores.append(tmp_path / f"n{n}")
        write_store(stores[-1], x0[order], x1[order], shard_counts=[640, 640])
    found = worth_of_stores(stores, 1024)
    for falls in ("floor", "curvature"):
        figures = [getattr(store.whole, falls) for store in found]
        assert figures == sorted(figures, reverse=True)
        assert figures[0] > 1.2 * figures[1] > 1.2 * figures[2]
    assert found[0].whole.errors[1] > 2 * found[2].whole.errors[1]
    assert [(store.half.pairs, store.whole.pairs, store.held_out) for store in found] == [(512, 1024, 256)] * 3
    assert all(store.whole.floor < store.half.floor for store in found)


def test_pairs_without_weight_take_no_part_and_directions_are_those_of_the_data(tmp_path: Path) -> None:
    """Half of the pairs have weight 0 and another map; data of 40 coordinates lie in a plane of them."""
    x0 = drawn(4096, 40).numpy()
    plane = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 2)))[0]
    weighted = np.arange(4096) % 2 == 0
    x1 = np.where(weighted[:, None], 3.0, -3.0) * (x0 @ plane) @ plane.T
    write_store(
        tmp_path / "store", x0, x1.astype(np.float32), weights=np.where(weighted, 2.0, 0.0), shard_counts=[2048] * 2
    )
    (found,) = worth_of_stores([tmp_path / "store"], 512, directions=2)
    assert (found.directions, found.held_out) == (2, 128)
    assert found.captured == pytest.approx(1, abs=1e-5)
    assert found.whole.floor < 1e-4


def test_potentials_alone_are_worth_what_their_pairs_are(tmp_path: Path) -> None:
    """A semi-discrete coupling with pairs and without: the same noise and data in another order."""
    coupling = {"method": "semidiscrete", "n": 400, "rel_eps": 0.1, "chi2": 0.5}
    figures = []
    for name, pairs in (("alone", 0), ("pairs", 640)):
        couple_here(settings(tmp_path / name, coupling=coupling, output={"pairs": pairs, "payload": "ids"}))
        (found,) = worth_of_stores([tmp_path / name], 512)
        figures.append(found.whole)
    assert figures[0].floor == pytest.approx(figures[1].floor, rel=0.1)
    assert figures[0].curvature == pytest.approx(figures[1].curvature, rel=0.2)


def test_what_cannot_be_estimated_is_refused_in_a_sentence(tmp_path: Path) -> None:
    x = drawn(600, 3).numpy()
    write_store(tmp_path / "few", x[:300], x[:300])
    write_store(tmp_path / "plain", x, x)
    write_store(tmp_path / "wide", np.zeros((600, 4)), np.zeros((600, 4)))
    write_store(tmp_path / "broken", x, np.where(np.arange(600)[:, None] == 7, np.nan, x))
    write_store(tmp_path / "chain", x, x)
    write_index(tmp_path / "chain", replace(read_index(tmp_path / "chain"), times=(0.0, 1.0)))
    (tmp_path / "none").mkdir()
    for names, sentence in (
        (["none"], "none"),
        (["plain", "few"], r"few': 300 pairs to draw from; an estimate needs 512, so couple more"),
        (["plain", "wide"], r"wide': data of another shape than '.*plain', \[3\] and \[4\]"),
        (["broken"], "broken': pairs with NaN or Inf"),
        (["chain"], "chain': a chain over time"),
    ):
        with pytest.raises(InputError, match=sentence):
            worth_of_stores([tmp_path / name for name in names])


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    x0 = drawn(700, 3).numpy()
    stores = [str(tmp_path / name) for name in ("straight", "mixed")]
    write_store(Path(stores[0]), x0, 2 * x0)
    write_store(Path(stores[1]), x0, 2 * x0[::-1].copy())

    def told(*arguments: str) -> str:
        answer = CliRunner(env={"COLUMNS": "140"}).invoke(application(), ["worth", *stores, *arguments])
        assert answer.exit_code == 0
        return answer.stdout

    found = json.loads(told("--json"))
    assert [row["directory"] for row in found] == stores
    assert [row["whole"]["pairs"] for row in found] == [560, 560]
    assert found[0]["whole"]["floor"] < 1e-4 < found[1]["whole"]["floor"]
    assert set(found[0]["half"]["errors"]) == {str(k) for k in EULER}
    table = told()
    assert "straight" in table
    assert f"{found[1]['whole']['floor']:.3g}" in table
    assert "from 560 pairs (from 280), on 140 others" in table
    headings, rows = worth_table(worth_of_stores(stores))
    assert {len(row) for row in rows} == {len(headings)}

"""Flows from data to data, and over time: paths by automatic differentiation, training, evaluation, samples, report."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from support.couplings import couple_here
from support.runs import drawn, train_here
from torch import nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.config import EvaluateConfig, SampleConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.objectives import probability_paths
from flowpairs.training.objectives.objective import BridgeMatching, Objective
from flowpairs.training.pairs.batch import Batch, BatchPart, BatchRows
from flowpairs.training.pairs.endpoints import Endpoints, read_endpoints
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reference import Reference
from flowpairs.training.report.page import write_report
from flowpairs.training.run import directory
from flowpairs.training.sample import sample

SHIFT = np.array([4.0, -2.0], np.float32)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points, the same distribution elsewhere, held-out ones of both, and one that moves on over four time points."""
    where, generator = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)

    def points(count: int) -> np.ndarray:
        return generator.normal(size=(count, 2)).astype(np.float32)

    np.savez(where / "a.npz", image=points(300))
    np.savez(where / "b.npz", image=points(500) + SHIFT)
    np.savez(where / "a-held.npz", image=points(200))
    np.savez(where / "b-held.npz", image=points(200) + SHIFT)
    day = np.repeat([0, 1, 2, 4], 150)
    np.savez(where / "c.npz", image=points(600) + day[:, None] * SHIFT / 4, day=day)
    return where


def couple_config(sets: Path, where: Path, **parts: dict[str, Any]) -> CoupleConfig:
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": str(sets / "b.npz")},
        "source": {"kind": "data", "path": str(sets / "a.npz")},
        "coupling": {"n": 2000, "resample": "repeat", "rel_eps": 0.03},
        "output": {"dir": str(where), "pairs": 2000, "payload": "ids"},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


@pytest.fixture(scope="module")
def pairs(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pairs") / "two-sided"
    couple_here(couple_config(sets, where))
    return where


@pytest.fixture(scope="module")
def chain(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over the days 0, 1 and 4; day 2 is left out."""
    where = tmp_path_factory.mktemp("pairs") / "chain"
    config = couple_config(sets, where, output={"payload": "full", "pairs": 4000}).model_dump(mode="json")
    config |= {"source": {"kind": "previous"}, "data": {"path": str(sets / "c.npz"), "time": "day", "leave_out": [2]}}
    couple_here(validate(CoupleConfig, config))
    return where


def train_config(pairs: Path, **parts: dict[str, Any]) -> TrainConfig:
    tree: dict[str, dict[str, Any]] = {
        "pairs": {"dir": str(pairs)},
        "model": {"kind": "mlp", "width": 64, "depth": 2},
        "train": {"steps": 400, "batch": 128, "warmup": 10, "ema": 0.95},
        "output": {"dir": str(pairs.parent / "run")},
        "cluster": {"workers": 1},
    }
    return validate(TrainConfig, tree | parts)


@pytest.mark.parametrize("kind", ["cfm", "vp", "sb"])
def test_spans_are_walked_in_their_time(kind):
    """d x / d t along a pair, by automatic differentiation in the chain's own time."""
    path = probability_paths.KINDS[kind](0.5 if kind == "sb" else 0.0)
    objective = Objective(seed=0, path=path)
    generator = torch.Generator().manual_seed(0)
    x0, x1, z = torch.randn(3, 6, 2, generator=generator)
    span = torch.tensor([[0.0, 0.25], [0.25, 0.5], [0.25, 1.0]] * 2)
    batch = Batch(x0, x1, BatchRows(0, 6, 6), span=span)
    length = span[:, 1] - span[:, 0]
    s = torch.linspace(0.1, 0.9, 6)

    def point(time: torch.Tensor) -> torch.Tensor:
        return objective.on_path(batch, (time - span[:, 0]) / length, None, z, None).x

    time = span[:, 0] + s * length
    found = objective.on_path(batch, s, None, z, None)
    torch.testing.assert_close(found.t, time)
    moved = torch.autograd.functional.jvp(point, time, torch.ones_like(time))[1]
    torch.testing.assert_close(found.velocity, moved, rtol=1e-4, atol=1e-5)
    if kind == "sb":  # a bridge of diffusion sigma has variance sigma^2 (t - t0) (t1 - t) / (t1 - t0) at t
        variance = 0.25 * (time - span[:, 0]) * (span[:, 1] - time) / length
        torch.testing.assert_close(found.std[:, 0] ** 2, variance)
        torch.testing.assert_close(found.x - ((1 - s) * x0.T + s * x1.T).T, found.std * z)


def test_a_whole_span_is_the_plain_path():
    class Net(nn.Module):
        def forward(self, t, x, label):
            return (x * t[:, None], x + 1)

    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 8, 2, generator=generator)
    rows = BatchRows(0, 8, 8)
    objective, net = BridgeMatching(seed=1, path=probability_paths.Bridge(0.7)), Net()
    plain = objective(net, net, drawn(objective, Batch(x0, x1, rows), 3))
    whole = Batch(x0, x1, rows, span=torch.tensor([[0.0, 1.0]] * 8))
    spanned = objective(net, net, drawn(objective, whole, 3))
    for one, other in zip(plain, spanned, strict=True):
        torch.testing.assert_close(one, other)


def test_batches_carry_spans(chain):
    index = read_index(chain)
    with ShardLoader(chain, index, BatchPart(64, 0, 1, 4), seed=0) as loader:
        seen = torch.cat([next(loader).span for _ in range(20)])
    assert {tuple(row) for row in seen.tolist()} == {(0.0, 0.25), (0.25, 1.0)}


def test_what_a_chain_cannot_do_is_refused(chain, pairs, sets):
    refused = partial(pytest.raises, InputError)
    with refused(match=r"path.kind=fm: starts from noise, and x0 of these pairs is data"):
        directory.check_run(train_config(pairs, path={"kind": "fm", "sigma": 0.1}))
    with refused(match=r"objective.kind=meanflow: jumps from 0 to 1"):
        directory.check_run(train_config(chain, objective={"kind": "meanflow"}))
    with refused(match=r"data='x': pairs of a chain are held to their own data"):
        read_endpoints(str(chain), read_index(chain), EvaluateConfig(data="x"))
    with refused(match=r"^source='.*nothing.npz': no such file"):
        read_endpoints(str(pairs), read_index(pairs), EvaluateConfig(source=str(sets / "nothing.npz")))


def test_ends_are_the_data_of_both_sides(pairs, chain, sets):
    with np.load(sets / "a.npz") as a, np.load(sets / "b.npz") as b:
        both = a["image"], b["image"]
    endpoints = read_endpoints(str(pairs), read_index(pairs), EvaluateConfig())
    assert endpoints.start is not None
    for found, data in zip((endpoints.start, endpoints.end.x), both, strict=True):
        seen, expected = ({row.tobytes() for row in rows} for rows in (found.numpy(), data))
        assert seen <= expected
        assert len(seen) > 0.95 * len(expected)  # of the target those that were drawn
    drawn = endpoints.starts(700, seed=3)
    assert drawn is not None
    counts = np.unique(drawn.numpy(), axis=0, return_counts=True)[1]
    assert sorted(set(counts)) == [2, 3]  # 700 of 300: each twice, and 100 of them once more
    points = read_endpoints(str(chain), read_index(chain), EvaluateConfig()).points
    assert [(point.time, point.t, point.left_out) for point in points] == [
        (0, 0, False),
        (1, 0.25, False),
        (2, 0.5, True),
        (4, 1, False),
    ]


def test_known_starts():
    """Golden numbers: a seed starts from the same data in every version, in a new order whenever they are used up."""
    data = torch.arange(5.0)[:, None]
    starts = Endpoints(data, Reference(data, None)).starts(13, seed=3)
    assert starts is not None
    assert starts[:, 0].tolist() == [2, 3, 4, 0, 1, 1, 0, 2, 3, 4, 0, 4, 2]


@pytest.mark.slow
def test_held_out_data_are_translated(local_ray, pairs, sets, tmp_path):
    """A shift of one distribution onto the other is learnt, and found again on data that no pair has."""
    run = tmp_path / "run"
    train_here(train_config(pairs, output={"dir": str(run)}))
    output = tmp_path / "translated.npz"
    config = SampleConfig(samples=200, solver="euler", steps=8)
    assert sample(run, config, output, str(sets / "a-held.npz")) == 8
    with np.load(output) as led, np.load(sets / "a-held.npz") as a, np.load(sets / "b-held.npz") as b:
        moved = led["samples"] - a["image"]
        floor, reached = (ot.emd2([], [], ot.dist(x, b["image"])) for x in (a["image"] + SHIFT, led["samples"]))
    np.testing.assert_allclose(moved.mean(0), SHIFT, atol=0.3)
    assert np.linalg.norm(moved - SHIFT, axis=1).mean() < 0.6  # independent pairs would mix: about 1.5
    assert reached < floor + 0.2
    sample(run, config, tmp_path / "own.npz")
    held = EvaluateConfig(samples=200, euler=(8,), source=str(sets / "a-held.npz"), data=str(sets / "b-held.npz"))
    report = evaluate(run, held)
    assert all(row["fd"] < 0.5 for row in report["frechet"])
    with pytest.raises(InputError, match=r"sde=\[4\]: the score follows from the velocity where x0 is noise"):
        evaluate(run, EvaluateConfig(sde=(4,)))
    with pytest.raises(InputError, match=r"--from '.*c.npzz': .*no such file"):
        sample(run, config, output, str(sets / "c.npzz"))


@pytest.mark.slow
def test_a_chain_is_held_to_its_time_points(local_ray, chain, tmp_path):
    """The day that was left out is passed on the way; the report shows every point."""
    run = train_here(train_config(chain, output={"dir": str(tmp_path / "run")}))
    report = evaluate(run, EvaluateConfig(samples=150, euler=(4,)))
    points = report["time_points"]
    assert [(point["time"], point["left_out"]) for point in points] == [(1, False), (2, True), (4, False)]
    for point in points:
        assert point["w1"] < 0.5 * point["w1_still"]
    write_report([chain, run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "2 (left out), W1" in page
    assert page.count("samples over") >= 3

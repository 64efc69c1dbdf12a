"""Jobs whose marginals may be missed at a price: their pairs follow the plan's own marginals, and stores verify."""

from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest

import flowpairs
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.pipeline.store.verify import verify

N, EPS = 20_000, 1.0


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets in the plane; a fifth of the second lies far off."""
    directory, generator = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    a, b = generator.normal(size=(50, 2)), generator.normal(size=(80, 2)) + 0.5
    b[:16] += 5
    np.savez(directory / "a.npz", image=a.astype(np.float32))
    np.savez(directory / "b.npz", image=b.astype(np.float32), w=generator.random(80))
    return directory


def settings(sets: Path, directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": str(sets / "b.npz"), "weight": "w"},
        "coupling": {"n": N, "eps": EPS, "cost": "sqeuclidean", "resample": "repeat", "relax": {"target": 0.5}},
        "output": {"dir": str(directory), "pairs": N, "pairs_per_shard": N},
        "cluster": {"actors": 0},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def drawn(directory: Path, *names: str) -> list[np.ndarray]:
    index = format.read_index(directory)
    decoder, parts = Decoder(directory, index), []
    for shard in index.shards:
        for _, fields in samples(Path(directory) / "shards" / shard.name):
            arrays = decoder.decode(fields, list(names))
            parts.append([arrays[name] for name in names])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_pairs_of_two_sets_are_draws_from_pots_plan(sets: Path, tmp_path: Path, direction: str) -> None:
    relax = {"source": 2.0, "target": 0.5}
    config = settings(
        sets,
        tmp_path / "pairs",
        source={"kind": "data", "path": str(sets / "a.npz")},
        coupling={"relax": relax},
        sampling={"direction": direction},
    )
    couple(config)
    (report,) = read_blocks(tmp_path / "pairs")
    x, y = (np.load(sets / f"{name}.npz")["image"].astype(np.float64) for name in "ab")
    a, b = np.full(50, 1 / 50), np.load(sets / "b.npz")["w"]
    std = report["eps"] / report["rel_eps"]
    prices = relax["source"] * std, relax["target"] * std
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, b / b.sum(), ot.dist(x, y), EPS, prices, reg_type="kl", numItermax=20_000
    )
    assert report["mass"] == pytest.approx(plan.sum(), rel=2e-3)
    plan /= plan.sum()
    source, data = drawn(tmp_path / "pairs", "source_ids", "data_ids")
    counts = np.zeros_like(plan)
    np.add.at(counts, (source, data), 1)
    side = 1 if direction == "forward" else 0
    assert np.abs(counts.sum(side) - N * plan.sum(side)).max() < 1 + 2e-3 * N, "rows have their share"
    assert np.abs(counts / N - plan).sum() < 1.5 * np.sqrt(2 / np.pi * plan / N).sum() + 4e-3
    assert plan[:, :16].sum() < 0.5 * b[:16].sum() / b.sum(), "what lies far off is left out"
    assert verify(tmp_path / "pairs").faults == recompute(tmp_path / "pairs", 1) == []


@pytest.mark.parametrize("source", [None, 0.1])
def test_noise_is_kept_or_chosen_by_the_plan(sets: Path, tmp_path: Path, source: float | None) -> None:
    n = 2000
    relax = {"target": 0.5} | ({} if source is None else {"source": source})
    config = settings(
        sets, tmp_path / "pairs", coupling={"relax": relax, "n": n}, output={"pairs": n, "payload": "full"}
    )
    couple(config)
    rows, x0, data = drawn(tmp_path / "pairs", "rows", "x0", "data_ids")
    made = noise.gaussian(config.source.seed, 0, n, 2)
    np.testing.assert_array_equal(x0, made[rows])
    assert (np.bincount(data, minlength=80)[:16].sum() / n) < 0.1
    if source is None:
        np.testing.assert_array_equal(np.sort(rows), np.arange(n))
    else:  # noise on the side of the data that are left out is used less
        times, far = np.bincount(rows, minlength=n), made.sum(1) > 2
        assert times[far].mean() < 0.7 * times[made.sum(1) < -1].mean()
    assert verify(tmp_path / "pairs").faults == recompute(tmp_path / "pairs", 1) == []


@pytest.mark.parametrize(
    ("coupling", "sentence"),
    [
        ({"cost": "dot"}, "leaves out"),
        ({"eps": None, "sharpness": 0.1}, "sharpness is found for kept marginals"),
        ({"eps": None, "method": "exact"}, "relax belongs to method sinkhorn"),
        ({"relax": {}}, "both prices are infinite"),
        ({"relax": {"target": -1}}, "relax.target"),
    ],
)
def test_what_does_not_go_together_is_refused(sets: Path, tmp_path: Path, coupling: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        settings(sets, tmp_path / "pairs", coupling=coupling)


def test_arrays_in_memory() -> None:
    x0, x1 = (np.random.default_rng(seed).normal(size=(40, 3)) for seed in (0, 1))
    x1[0] = 50
    coupling = flowpairs.solve(x0, x1, cost="sqeuclidean", rel_eps=0.01, relax={"target": 0.05})
    assert 0 not in coupling.sample()
    np.testing.assert_allclose(coupling.marginals[0], 1 / 40)
    assert coupling.marginals[1][0] < 1e-6
    assert coupling.report.mass == 1

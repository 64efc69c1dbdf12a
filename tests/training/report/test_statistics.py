"""The figures of pairs and plans in the report: against plain counts, and against the plan computed as a matrix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import flowpairs as fp
from flowpairs.pipeline.config import CoupleConfig, from_overrides, load
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.report.summaries.pair_statistics import read_pair_statistics
from flowpairs.training.report.summaries.plan_statistics import partners_by_row, sharpness_curve
from flowpairs.training.report.summaries.stores import read_store

N, PAIRS = 256, 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("statistics") / "store"
    overrides = [
        "data.path=digits", "data.label=label", f"coupling.n={N}", "coupling.rel_eps=0.05", f"output.pairs={PAIRS}",
        f"output.dir={directory}", "cluster.actors=0", "output.payload=full", "features.pca=16",
    ]  # fmt: skip
    couple(from_overrides(CoupleConfig, overrides))
    return directory


def test_counts_distances_and_cosines_are_those_of_plain_loops(store: Path) -> None:
    index, pairs = read_index(store), fp.PairDataset(store)[:]
    found = read_pair_statistics(store, index)
    ids, labels = pairs["data_id"].numpy(), pairs["label"].numpy()
    counted = np.bincount(ids, minlength=1797)
    assert found.read == PAIRS
    assert found.uses == {times: int((counted == times).sum()) for times in {0, *counted.tolist()}}
    data_labels = load_digits().target
    assert [(share.of_pairs, share.of_data) for share in found.classes] == [
        ((labels == digit).mean(), (data_labels == digit).mean()) for digit in range(10)
    ]
    with np.load(store / "features" / "map.npz") as file:
        mean, basis = file["mean"].astype(np.float64), file["basis"].astype(np.float64)
    x0 = pairs["x0"].flatten(1).numpy().astype(np.float64) @ basis
    x1 = (pairs["x1"].flatten(1).numpy().astype(np.float64) - mean) @ basis
    assert len(found.x0) == PAIRS
    coupled, independent = found.distances
    np.testing.assert_allclose(coupled, ((x0 - x1) ** 2).sum(1), rtol=1e-5)
    assert coupled.mean() < 0.9 * independent.mean()
    near, _ = found.cosines
    expected = (x0 * x1).sum(1) / (np.linalg.norm(x0, axis=1) * np.linalg.norm(x1, axis=1))
    np.testing.assert_allclose(near, expected, atol=1e-5)
    assert sorted(found.exchanged.tolist()) == list(range(PAIRS))


def test_partners_are_those_of_the_plan_as_a_matrix(store: Path) -> None:
    summary = read_store(store, "store")
    assert summary.partners is not None
    assert summary.blocks is not None
    config = load(CoupleConfig, store / "config.yaml")
    found = partners_by_row(store, summary.index, config, summary.blocks[0].eps)
    assert found is not None
    np.testing.assert_array_equal(found, summary.partners)
    # The whole first block: rows of P have the entropies whose mean is the report's.
    assert len(found) == N
    assert np.exp(np.log(found).mean()) == pytest.approx(summary.blocks[0].partners, rel=1e-3)
    assert found.min() >= 1


def test_the_curve_is_that_of_solves(store: Path) -> None:
    summary = read_store(store, "store")
    curve, statistics = summary.curve, summary.statistics
    assert curve is not None
    assert curve.chosen is not None
    assert curve.points[curve.chosen].rel_eps == pytest.approx(0.05)
    sharpness = [point.sharpness for point in curve.points]
    assert sharpness == sorted(sharpness, reverse=True)
    distinct = np.sort(np.unique(statistics.data_ids, return_index=True)[1])
    x0, x1 = torch.from_numpy(statistics.x0[: curve.rows]), torch.from_numpy(statistics.x1[distinct[: curve.data]])
    for point in curve.points[:2]:
        solved = fp.solve(x0, x1, rel_eps=point.rel_eps, cost="dot")
        assert point.sharpness == pytest.approx(solved.report.sharpness, abs=1e-6)


def test_no_curve_where_the_cost_is_unknown(store: Path) -> None:
    statistics = read_pair_statistics(store, read_index(store))
    config = load(CoupleConfig, store / "config.yaml").coupling
    own = config.model_copy(update={"cost": "module:function"})
    assert sharpness_curve(statistics, own, None) is None


def test_errors_of_every_pass_are_kept(store: Path) -> None:
    blocks = read_store(store, "store").blocks
    assert blocks is not None
    for block in blocks:
        assert block.errors
        assert len(block.errors) <= block.passes
        assert block.errors[-1] < 1e-3
        assert block.date
        assert block.flowpairs

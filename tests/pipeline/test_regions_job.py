"""Jobs whose blocks are coupled in regions: their pairs, reports, forecasts and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.couplings import couple_here, settings, shard_bytes

import flowpairs as fp
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.plan import plan
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.verify import verify


def job(directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    """Three blocks of 300 digits in five regions each."""
    coupling = {"n": 300, "rel_eps": 0.1, "regions": 5} | parts.pop("coupling", {})
    output = {"pairs": 900} | parts.pop("output", {})
    return settings(directory, features={"pca": 8}, coupling=coupling, output=output, **parts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("regions") / "store"
    couple_here(job(directory))
    return directory


def test_blocks_report_what_regions_lose(store: Path, tmp_path: Path) -> None:
    couple_here(job(tmp_path / "whole", coupling={"regions": None}))
    for ours, whole in zip(read_blocks(store), read_blocks(tmp_path / "whole"), strict=True):
        assert (ours["regions"], ours["method"], ours["converged"]) == (5, "sinkhorn", True)
        assert ours["cost_independent"] == pytest.approx(whole["cost_independent"], rel=1e-6)
        assert ours["eps"] == pytest.approx(whole["eps"], rel=1e-9)
        assert ours["cost_coupled"] - whole["cost_coupled"] < ours["loss_bound"] + 3 * ours["loss_error"]
        assert ours["loss_bound"] < 0.5 * (ours["cost_independent"] - ours["cost_coupled"])
        assert "loss_bound" not in whole


def test_a_store_verifies_and_is_computed_again_to_the_same_bytes(store: Path) -> None:
    assert verify(store).faults == recompute(store, 2) == []
    assert not list((store / "potentials").iterdir()), "regions have no potential in common"


@pytest.mark.parametrize("actors", [1, 2])
def test_pairs_do_not_depend_on_actors(store: Path, tmp_path: Path, local_ray: None, actors: int) -> None:
    couple(job(tmp_path / "s", cluster={"actors": actors}))
    assert shard_bytes(tmp_path / "s") == shard_bytes(store)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_balanced_draws_use_every_row_and_datum_once(tmp_path: Path, direction: str) -> None:
    couple_here(job(tmp_path / "s", sampling={"draw": "balanced", "direction": direction}, output={"pairs": 300}))
    pairs = fp.PairDataset(tmp_path / "s", fields=["x0", "data_id"])[:300]
    assert len(np.unique(pairs["data_id"])) == 300
    assert len(np.unique(pairs["x0"].flatten(1).numpy(), axis=0)) == 300


def test_arrays_are_coupled_in_regions() -> None:
    pairs = fp.couple(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32), rel_eps=0.05, regions=4)
    assert pairs.report["regions"] == 4
    assert pairs.report["loss_bound"] > 0


def test_a_forecast_has_regions_of_the_jobs_size(tmp_path: Path, local_ray: None) -> None:
    config = job(tmp_path / "s", coupling={"n": 1700, "regions": 17}, output={"pairs": 1700}, cluster={"actors": 1})
    forecast = plan(config)
    assert forecast.seconds > forecast.block_seconds > 0


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"coupling": {"regions": 1}}, "regions"),
        ({"coupling": {"regions": 151}}, r"regions=151: of n=300 rows"),
        ({"coupling": {"method": "exact", "rel_eps": None}}, "regions belong to method sinkhorn"),
        ({"coupling": {"cost": "geodesic"}}, "regions belong to method sinkhorn with cost dot or sqeuclidean"),
        ({"coupling": {"rel_eps": None, "sharpness": 0.2}}, "sharpness does not go with regions"),
        ({"coupling": {"cost": "sqeuclidean", "relax": {"target": 1}}}, "relax does not go with regions"),
        ({"coupling": {"start": "elsewhere"}}, "start does not go with regions"),
        ({"coupling": {"resample": "repeat"}}, "resample does not go with regions"),
        ({"source": {"kind": "data", "path": "digits"}}, r"coupling\.regions: cut noise"),
        ({"data": {"weight": "w"}}, r"coupling\.regions: .* without weights"),
        ({"cluster": {"actors": 2, "actors_per_block": 2}}, "actors_per_block=2: regions are coupled by one actor"),
    ],
)
def test_what_does_not_go_with_regions_is_refused(tmp_path: Path, parts: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        job(tmp_path / "s", **parts)
    assert not (tmp_path / "s").exists()


def test_a_store_of_regions_starts_no_other(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="coupled in regions, which have no potential in common"):
        couple_here(job(tmp_path / "s", coupling={"regions": None, "start": str(store)}))

"""Couplings between two data sets, and chains of them over time, held to POT, to their weights and to their ids."""

from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
from jaxtyping import Float
from support.datasets import read_data
from support.rowsets import stored as rows_of

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.config import CoupleConfig, DataConfig, validate
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.plan import plan
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.pipeline.store.verify import verify

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of points in the plane, of unequal size, with weights, and time points of the second."""
    directory, generator = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    a, b = generator.normal(size=(60, 2)) + 3, generator.normal(size=(90, 2)) * [2, 1]
    some = generator.integers(0, 4, 60).astype(np.float64)  # some of them 0
    np.savez(directory / "a.npz", image=a.astype(np.float32), w=some)
    times = np.repeat([1.0, 2.0, 4.0], 30)
    np.savez(directory / "b.npz", image=b.astype(np.float32), w=generator.random(90), day=times, none=times * 0)
    return directory


def settings(sets: Path, directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    """Pairs between the two sets, in whole blocks."""
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": str(sets / "b.npz")},
        "source": {"kind": "data", "path": str(sets / "a.npz")},
        "coupling": {"n": 90, "rel_eps": 0.1},
        "output": {"dir": str(directory), "pairs": 180, "pairs_per_shard": 50},
        "cluster": {"actors": 0},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def chain(sets: Path, directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    """Pairs between successive time points of the second set."""
    config = settings(sets, directory, **{**parts, "data": {}}).model_dump(mode="json")
    config["source"] = {"kind": "previous"}
    config["data"] |= {"time": "day"} | parts.get("data", {})
    config["coupling"] |= {"resample": "repeat"}
    return validate(CoupleConfig, config)


def pairs(directory: Path) -> Arrays:
    """All pairs of a store, and the block of each."""
    index = format.read_index(directory)
    decoder = Decoder(directory, index)
    names = ["x0", "x1", "data_ids", "source_ids", *(["span"] if index.times else [])]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "block")}
    for shard in index.shards:
        for _, fields in samples(as_path(directory) / "shards" / shard.name):
            arrays = decoder.decode(fields, names)
            for name, array in arrays.items():
                parts[name].append(array)
            parts["block"].append(np.full(len(arrays["x0"]), shard.block))
    return {name: np.concatenate(part) for name, part in parts.items()}


def stored(sets: Path, name: str, column: str = "image") -> Float[np.ndarray, "..."]:
    with np.load(sets / f"{name}.npz") as arrays:
        return arrays[column]


def test_pairs_are_data_of_both_sets_and_both_payloads_hold_the_same(sets, tmp_path):
    couple(settings(sets, tmp_path / "full"))
    found = pairs(tmp_path / "full")
    np.testing.assert_array_equal(found["x0"], stored(sets, "a")[found["source_ids"]])
    np.testing.assert_array_equal(found["x1"], stored(sets, "b")[found["data_ids"]])
    assert verify(tmp_path / "full").faults == recompute(tmp_path / "full", 2) == []
    index = format.read_index(tmp_path / "full")
    assert index.two_sided
    assert not index.times

    couple(settings(sets, tmp_path / "ids", output={"payload": "ids"}))
    np.testing.assert_array_equal(rows_of(tmp_path / "ids"), stored(sets, "b"))
    np.testing.assert_array_equal(rows_of(tmp_path / "ids", "source_rows"), stored(sets, "a"))
    assert verify(tmp_path / "ids").faults == []
    for name, array in pairs(tmp_path / "ids").items():
        np.testing.assert_array_equal(array, found[name])
    for there, here, payload in (("ids", "full", "full"), ("full", "ids", "ids")):
        convert(tmp_path / there, tmp_path / f"{there}-to-{payload}", payload)
        for shard in sorted((tmp_path / here / "shards").glob("*.tar")):
            assert (tmp_path / f"{there}-to-{payload}" / "shards" / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_weights_are_the_marginals_of_the_pairs(sets, tmp_path, method, direction):
    """Both marginals, and the plan: its moments are those of POT's, by as many draws as settle them."""
    count, eps = 40_000, 0.5
    couple(
        settings(
            sets,
            tmp_path / "pairs",
            data={"weight": "w"},
            source={"weight": "w"},
            coupling={"n": count, "resample": "repeat", "method": method, "cost": "sqeuclidean"}
            | ({"rel_eps": None, "eps": eps} if method == "sinkhorn" else {"rel_eps": None}),
            sampling={"direction": direction},
            output={"pairs": count, "pairs_per_shard": count},
        )
    )
    found, a, b = pairs(tmp_path / "pairs"), stored(sets, "a", "w"), stored(sets, "b", "w")
    a, b = a / a.sum(), b / b.sum()
    x, y = stored(sets, "a").astype(np.float64), stored(sets, "b").astype(np.float64)
    cost = ot.dist(x, y)
    used = a > 0
    if method == "exact":
        plan = ot.emd(a, b, cost)
    else:
        plan = np.zeros_like(cost)
        plan[used] = ot.sinkhorn(a[used], b, cost[used], eps, method="sinkhorn_log", stopThr=1e-10, numItermax=10**5)
    counts = np.zeros_like(plan)
    np.add.at(counts, (found["source_ids"], found["data_ids"]), 1)
    assert not counts[~used].any()
    drawn, wanted = (counts.sum(1), a) if direction == "forward" else (counts.sum(0), b)
    assert np.abs(drawn - wanted * count).max() <= 1  # rows have their share, rounded up or down
    spread = np.sqrt(plan * (1 - plan) * count) + 1
    assert np.abs(counts - plan * count).max() < 6 * spread.max()
    assert np.abs(counts / count - plan).sum() < 1.5 * np.sqrt(2 / np.pi * plan / count).sum() + 2e-3


def test_balanced_draws_use_the_other_side_equally_often(sets, tmp_path):
    for direction, side, size in (("forward", "data_ids", 90), ("backward", "source_ids", 60)):
        couple(
            settings(
                sets,
                tmp_path / direction,
                coupling={"n": 360, "resample": "repeat"},
                sampling={"draw": "balanced", "direction": direction},
                output={"pairs": 360},
            )
        )
        counts = np.bincount(pairs(tmp_path / direction)[side], minlength=size)
        assert (counts == 360 // size).all()


def test_epochs_of_both_sides_are_exact(sets, tmp_path):
    couple(settings(sets, tmp_path / "pairs", coupling={"n": 30, "method": "independent", "rel_eps": None}))
    found = pairs(tmp_path / "pairs")
    for epoch in range(3):  # of the source: two blocks of 30
        chosen = found["source_ids"][found["block"] // 2 == epoch]
        assert sorted(chosen) == list(range(60))


def test_noise_for_data(tmp_path):
    """Backward from digits to noise: every digit once a block, and the noise rows are the block's."""
    tree: dict[str, Any] = {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"n": 1797, "rel_eps": 0.05},
        "sampling": {"direction": "backward"},
        "output": {"dir": str(tmp_path / "pairs"), "pairs": 2 * 1797, "payload": "seeded"},
        "cluster": {"actors": 0},
    }
    index = couple(validate(CoupleConfig, tree))
    assert verify(tmp_path / "pairs").faults == []
    decoder, rows, ids = Decoder(tmp_path / "pairs", index), [], []
    for shard in index.shards:
        for _, fields in samples(tmp_path / "pairs" / "shards" / shard.name):
            arrays = decoder.decode(fields, ["rows", "data_ids", "x0", "x1", "label"])
            rows.append(arrays["rows"])
            ids.append(arrays["data_ids"])
    blocks = np.split(np.concatenate(rows), 2)
    for number, (found, chosen) in enumerate(zip(blocks, np.split(np.concatenate(ids), 2), strict=True)):
        assert (found // 1797 == number).all()
        assert sorted(chosen) == list(range(1797))


def test_chain_leads_from_each_time_point_to_the_next(sets, tmp_path):
    couple(chain(sets, tmp_path / "all", output={"pairs": 540, "payload": "ids"}))
    found, day = pairs(tmp_path / "all"), stored(sets, "b", "day")
    met = {tuple(pair) for pair in np.stack([day[found["source_ids"]], day[found["data_ids"]]], 1)}
    assert met == {(1.0, 2.0), (2.0, 4.0)}
    scaled = (day - 1) / 3
    np.testing.assert_allclose(found["span"][:, 0], scaled[found["source_ids"]], atol=1e-7)
    np.testing.assert_allclose(found["span"][:, 1], scaled[found["data_ids"]], atol=1e-7)
    assert format.read_index(tmp_path / "all").times == (1.0, 2.0, 4.0)
    assert not (tmp_path / "all" / "source_rows").exists()
    assert verify(tmp_path / "all").faults == recompute(tmp_path / "all", 3) == []
    convert(tmp_path / "all", tmp_path / "full", "full")
    couple(chain(sets, tmp_path / "direct", output={"pairs": 540}))
    for shard in (tmp_path / "direct" / "shards").glob("*.tar"):
        assert (tmp_path / "full" / "shards" / shard.name).read_bytes() == shard.read_bytes()

    couple(chain(sets, tmp_path / "without", data={"leave_out": [2]}))
    found = pairs(tmp_path / "without")
    assert (day[found["source_ids"]] == 1).all()
    assert (day[found["data_ids"]] == 4).all()
    assert (found["span"] == [0, 1]).all()


def test_precomputed_costs_are_those_that_count(sets, tmp_path):
    """A matrix whose cheapest plan is known: datum j goes with source j % 60."""
    costs = np.ones((60, 90), np.float32)
    costs[np.arange(90) % 60, np.arange(90)] = 0
    np.save(tmp_path / "costs.npy", costs)
    given = {"cost": "precomputed", "matrix": str(tmp_path / "costs.npy")}
    couple(settings(sets, tmp_path / "pairs", coupling={"rel_eps": None, "eps": 0.01, **given}))
    found = pairs(tmp_path / "pairs")
    # A third of the sources has two data and the rest one, so that a sixth of the mass has to go elsewhere.
    assert (found["source_ids"] == found["data_ids"] % 60).mean() > 0.7
    np.save(tmp_path / "costs.npy", costs[:, :30])
    with pytest.raises(
        InputError, match=r"coupling.matrix=.*\[60, 30\].*a row for each of 60 source data and a column"
    ):
        couple(settings(sets, tmp_path / "other", coupling=given))


def test_shared_problems_are_solved_once_and_results_do_not_depend_on_the_actors(local_ray, sets, tmp_path):
    for actors in (1, 2):
        couple(chain(sets, tmp_path / f"by-{actors}", output={"pairs": 900}, cluster={"actors": actors}))
    for shard in (tmp_path / "by-1" / "shards").glob("*.tar"):
        assert (tmp_path / "by-2" / "shards" / shard.name).read_bytes() == shard.read_bytes()
    rows = read_blocks(as_path(tmp_path / "by-1"))
    assert len(rows) == 10
    assert len({(row["n"], row["m"], row["cost_coupled"]) for row in rows}) == 2


REFUSED: list[tuple[dict[str, dict[str, Any]], str]] = [
    ({"source": {"path": "/nowhere"}}, r"source\.path='/nowhere'"),
    ({"source": {"column": "w"}}, r"source\.column='w'"),
    ({"data": {"path": "digits"}}, r"source.path=.*shape \[2\], those of data.path have \[1, 8, 8\]"),
    ({"output": {"payload": "seeded"}}, "payload=seeded: data as a source have no seed"),
    ({"coupling": {"method": "semidiscrete", "rel_eps": 0}}, "method=semidiscrete: takes noise as its source"),
    ({"coupling": {"n": 45}, "data": {"weight": "w"}}, "coupling.n=45: weights are of all 90 data together"),
    ({"data": {"weight": "none"}}, "data.weight='none': negative, or 0 throughout"),
    ({"data": {"weight": "image"}}, r"data.weight='image': \[90, 2\].*give one number a row"),
    ({"coupling": {"n": 91}}, "coupling.n=91: larger than the data set of 90 data"),
    ({"data": {"time": "day"}}, "data.time and source.kind=previous need each other"),
    ({"data": {"leave_out": [1]}}, "leave_out names time points of a column"),
    ({"coupling": {"cost": "precomputed"}}, "matrix is what cost precomputed looks up"),
    ({"coupling": {"heat": 3.0}}, "neighbours and heat belong to cost geodesic"),
    ({"source": {"fingerprint": "0"}}, "source.fingerprint='0': what was read has"),
    ({"coupling": {"cost": "geodesic", "neighbours": 150}}, "coupling.neighbours=150: a block has 150 points"),
]


@pytest.mark.parametrize(("parts", "says"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(sets, tmp_path, parts, says):
    with pytest.raises(InputError, match=says):
        couple(settings(sets, tmp_path / "pairs", **parts))


def test_chain_refusals(sets, tmp_path):
    with pytest.raises(InputError, match="leave_out=3: no such time point; the data have 1, 2, 4"):
        couple(chain(sets, tmp_path / "pairs", data={"leave_out": [3]}))
    with pytest.raises(InputError, match=r"output.pairs=90: a chain of 2 legs takes a block of coupling.n=90 pairs"):
        couple(chain(sets, tmp_path / "pairs", output={"pairs": 90}))
    with pytest.raises(InputError, match="a chain needs two time points, and 4 is left"):
        couple(chain(sets, tmp_path / "pairs", data={"leave_out": [1, 2]}))


def test_columns_come_the_same_from_parquet(sets, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: stored(sets, "b", name) for name in ("w", "day")}
    pq.write_table(pa.table({"image": stored(sets, "b").tolist(), **columns}), tmp_path / "b.parquet")
    read = {}
    for path in (sets / "b.npz", tmp_path / "b.parquet"):
        config = data_config(path)
        read[path.suffix] = read_data(config, data.check_data(config))
    for name in ("x", "weights", "times"):
        np.testing.assert_array_equal(getattr(read[".npz"], name), getattr(read[".parquet"], name))
    assert read[".npz"].columns_fingerprint == read[".parquet"].columns_fingerprint
    with pytest.raises(InputError, match="'hour': no such column"):
        data.check_data(data_config(tmp_path / "b.parquet").model_copy(update={"time": "hour"}))
    with pytest.raises(InputError, match="'w': columns are of"):
        data.check_data(data_config(tmp_path / "b.parquet").model_copy(update={"path": "digits"}))


def data_config(path: Path) -> DataConfig:
    return DataConfig(path=str(path), weight="w", time="day")


def test_a_store_of_other_weights_is_refused(sets, tmp_path):
    weighted = {"data": {"weight": "w"}, "coupling": {"n": 90}}
    couple(settings(sets, tmp_path / "pairs", **weighted))
    changed = tmp_path / "b.npz"
    with np.load(sets / "b.npz") as arrays:
        np.savez(changed, **{**arrays, "w": np.ones(90)})
    with pytest.raises(InputError, match="columns_fingerprint"):
        couple(settings(sets, tmp_path / "pairs", **weighted | {"data": {"weight": "w", "path": str(changed)}}))


def test_plan_forecasts_a_two_sided_job(sets, tmp_path):
    forecast = plan(settings(sets, tmp_path / "pairs"))
    assert (forecast.pairs, forecast.blocks, forecast.m) == (180, 2, 90)
    assert forecast.shard_bytes > 180 * 16

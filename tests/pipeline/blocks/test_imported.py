"""Pairs made elsewhere: a table becomes the store that it describes, in any payload; one that cannot is refused."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from flowpairs.jobs._summary import print_summary
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.imported_pairs import read_table
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.report.page import write_report

PAIRS = 700
RNG = np.random.default_rng(3)
IDS = RNG.integers(0, 2 * 1797, PAIRS)  # mirror images among them
ROWS = np.concatenate([np.arange(400), RNG.permutation(10_000)[:300]])  # consecutive ones, then others
X0 = RNG.standard_normal((PAIRS, 1, 8, 8)).astype(np.float32)


def settings(directory: Path, table: Path | str, **parts: dict[str, Any]) -> CoupleConfig:
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": "digits", "label": "label", "flips": True},
        "source": {"seed": 5},
        "coupling": {"method": "imported", "table": str(table), "n": 300},
        "output": {"dir": str(directory), "pairs": PAIRS, "pairs_per_shard": 200},
        "cluster": {"actors": 0},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def npz(path: Path, **columns: Any) -> Path:
    np.savez(path, **columns)
    return path


def pairs(directory: Path) -> dict[str, np.ndarray]:
    index = format.read_index(directory)
    decoder, names = Decoder(directory, index), ("x0", "x1", "label", "data_ids")
    found = [fields for shard in index.shards for _, fields in samples(directory / "shards" / shard.name)]
    parts = [decoder.decode(fields, names) for fields in found]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def digits(ids: np.ndarray) -> np.ndarray:
    """scikit-learn's digits by data id, mirror images reversed by numpy."""
    images = (load_digits().images[ids % 1797] / 8 - 1).astype(np.float32)[:, None]
    return np.where((ids >= 1797)[:, None, None, None], np.flip(images, 3), images)


@pytest.fixture(scope="module")
def by_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("imported")
    table = npz(root / "table.npz", data_id=IDS, source_row=ROWS)
    for payload in ("full", "seeded", "ids"):
        couple(settings(root / payload, table, output={"payload": payload}))
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("payload", ["full", "seeded", "ids"])
def test_rows_and_ids_become_their_noise_and_data(by_rows: dict[str, Path], payload: str) -> None:
    found = pairs(by_rows[payload])
    np.testing.assert_array_equal(found["data_ids"], IDS)
    np.testing.assert_array_equal(found["x1"], digits(IDS))
    np.testing.assert_array_equal(found["label"], load_digits().target[IDS % 1797])
    whole = noise.gaussian(5, 0, 10_000, 64).reshape(-1, 1, 8, 8)
    np.testing.assert_array_equal(found["x0"], whole[ROWS])
    assert verify(by_rows[payload]).faults == []


@pytest.mark.parametrize("made_from", ["full", "seeded", "ids"])
@pytest.mark.parametrize("payload", ["full", "seeded", "ids"])
def test_converted_stores_are_the_imported_ones(
    by_rows: dict[str, Path], tmp_path: Path, made_from: str, payload: str
) -> None:
    convert(by_rows[made_from], tmp_path / "s", payload)
    assert format.read_index(tmp_path / "s") == format.read_index(by_rows[payload])


def test_reports_hold_the_costs_of_the_pairs_and_null_for_the_rest(by_rows: dict[str, Path], tmp_path: Path) -> None:
    blocks, found = read_blocks(by_rows["full"]), pairs(by_rows["full"])
    for row, start in zip(blocks, (0, 300, 600), strict=True):
        x0, x1 = (found[side][start : start + 300].reshape(-1, 64).astype(np.float64) for side in ("x0", "x1"))
        x1 -= np.concatenate([digits(np.arange(1797)), digits(np.arange(1797, 3594))]).reshape(-1, 64).mean(0)
        loop = [((a - b) ** 2).sum() for a, b in zip(x0, x1, strict=True)]
        product = [((a - b) ** 2).sum() for a in x0 for b in x1]
        assert row["cost_coupled"] == pytest.approx(np.mean(loop), rel=1e-5)
        assert row["cost_independent"] == pytest.approx(np.mean(product), rel=1e-5)
        assert (row["method"], row["n"], row["sharpness"], row["target_error"]) == ("imported", len(x0), None, None)
    assert read_status(by_rows["full"]).worst_marginal_error is None
    print_summary(by_rows["full"])
    assert "imported" in write_report([by_rows["full"]], tmp_path / "report.html").read_text()


def test_computing_again_finds_the_same_bits_or_another_table(by_rows: dict[str, Path], tmp_path: Path) -> None:
    assert recompute(by_rows["ids"], 3) == []
    table = npz(tmp_path / "table.npz", data_id=IDS, source_row=ROWS)
    couple(settings(tmp_path / "s", table))
    npz(table, data_id=IDS, source_row=ROWS[::-1])
    assert "no longer the pairs imported" in recompute(tmp_path / "s", 1)[0]
    (tmp_path / "s" / "index.json").unlink()
    with pytest.raises(InputError, match=r"coupling.table_fingerprint \("):
        couple(settings(tmp_path / "s", table))


def test_x0_itself_is_stored_as_it_is(tmp_path: Path) -> None:
    """Twice the same pairs: by npz without ids, and by parquet with flat rows."""
    couple(settings(tmp_path / "npz", npz(tmp_path / "t.npz", x0=X0.astype(np.float64))))
    columns = {"x0": pa.array(X0.reshape(PAIRS, 64).tolist(), pa.list_(pa.float32())), "data_id": np.arange(PAIRS)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    couple(settings(tmp_path / "parquet", (tmp_path / "t.parquet").as_uri()))
    for name in ("npz", "parquet"):
        found = pairs(tmp_path / name)
        np.testing.assert_array_equal(found["x0"], X0)
        np.testing.assert_array_equal(found["data_ids"], np.arange(PAIRS))
        assert verify(tmp_path / name).faults == []
    assert format.read_index(tmp_path / "npz") == format.read_index(tmp_path / "parquet")
    with pytest.raises(InputError, match=r"payload='seeded': x0 of pairs-000000.tar is no noise"):
        convert(tmp_path / "npz", tmp_path / "seeded", "seeded")
    convert(tmp_path / "npz", tmp_path / "full", "full")
    np.testing.assert_array_equal(pairs(tmp_path / "full")["x0"], X0)


def test_more_pairs_a_block_than_data_are_no_matter(tmp_path: Path) -> None:
    table = npz(tmp_path / "t.npz", data_id=np.arange(4000) % 7, source_row=np.arange(4000))
    couple(settings(tmp_path / "s", table, coupling={"n": 4000}, output={"pairs": 4000}))
    (row,) = read_blocks(tmp_path / "s")
    assert (row["n"], row["m"]) == (4000, 7)


BAD_X0 = X0.copy()
BAD_X0[3, 0, 0, 0] = np.nan
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ids beyond the data": ({"data_id": IDS + 3000, "source_row": ROWS}, r"data_id \d+ is beyond the 3594 data ids"),
    "negative ids": ({"data_id": IDS - 4000, "source_row": ROWS}, "data_id goes from -"),
    "fractions": ({"data_id": IDS * 1.0, "source_row": ROWS}, "data_id is .* of float64; give one integer a pair"),
    "rows beyond": ({"data_id": IDS, "source_row": ROWS + 2**40}, "is beyond the 1099511627776 of a seed"),
    "unequal lengths": ({"data_id": IDS[1:], "source_row": ROWS}, "699 data_id but 700 source_row"),
    "unequal lengths of x0": ({"data_id": IDS[1:], "x0": X0}, "699 data_id but 700 x0"),
    "too few": ({"data_id": IDS[:99], "source_row": ROWS[:99]}, "output.pairs=700: .* has 99"),
    "NaN": ({"x0": BAD_X0}, "x0 has NaN or Inf"),
    "too large for float32": ({"x0": X0.astype(np.float64) * 1e300}, "x0 has NaN or Inf"),
    "another shape": (
        {"x0": X0[:, :, :, :5]},
        r"x0 is \[700, 1, 8, 5\] of float32; the data need numbers of \[1, 8, 8\]",
    ),
    "neither": ({"data_id": IDS}, "needs either a column source_row or a column x0"),
    "both": ({"x0": X0, "source_row": ROWS}, "needs either a column source_row or a column x0"),
    "rows without ids": ({"source_row": ROWS}, "no column data_id"),
    "pickles": ({"x0": np.array([None])}, "cannot be read"),
    "empty": ({"data_id": IDS[:0], "source_row": ROWS[:0]}, "give one integer a pair"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_table_that_cannot_become_pairs_is_refused(tmp_path: Path, what: str) -> None:
    columns, says = REFUSED[what]
    with pytest.raises(InputError, match=says):
        couple(settings(tmp_path / "s", npz(tmp_path / "t.npz", **columns)))
    assert not (tmp_path / "s").exists()


def test_what_goes_with_no_table_is_refused(tmp_path: Path) -> None:
    table = npz(tmp_path / "t.npz", x0=X0)
    refusals: list[tuple[Callable[[], CoupleConfig], str]] = [
        (lambda: settings(tmp_path / "s", tmp_path / "none.npz"), "cannot be read"),
        (lambda: settings(tmp_path / "s", tmp_path / "t.csv"), r"not a .npz or .parquet file"),
        (lambda: settings(tmp_path / "s", table, output={"payload": "ids"}), "output.payload='ids': x0 of"),
        (lambda: settings(tmp_path / "s", table, features={"pca": 4}), "features.pca: imported pairs have no cost"),
        (lambda: settings(tmp_path / "s", table, sampling={"draw": "balanced"}), "sampling.draw='balanced'"),
        (lambda: settings(tmp_path / "s", table, coupling={"table": None}), "table belongs to method imported"),
        (lambda: settings(tmp_path / "s", table, coupling={"method": "exact"}), "table belongs to method imported"),
        (lambda: settings(tmp_path / "s", table, coupling={"rel_eps": 0.1}), "rel_eps belong to method sinkhorn"),
    ]
    for config, says in refusals:
        with pytest.raises(InputError, match=says):
            couple(config())


WEIGHTS = RNG.uniform(0, 2, PAIRS).astype(np.float32)


@pytest.mark.parametrize("payload", ["full", "ids"])
def test_weights_reach_training_through_every_payload(payload: str, tmp_path: Path) -> None:
    rows = RNG.permutation(10_000)[:PAIRS]
    table = pa.table({"data_id": IDS, "source_row": rows, "weight": WEIGHTS})
    pq.write_table(table, tmp_path / "t.parquet")
    couple(settings(tmp_path / "s", tmp_path / "t.parquet", output={"payload": payload}))
    convert(tmp_path / "s", tmp_path / "converted", "seeded")
    whole = noise.gaussian(5, 0, 10_000, 64)
    weight_of = dict(zip((whole[row].tobytes() for row in rows), WEIGHTS.tolist(), strict=True))
    for name in ("s", "converted"):
        index = format.read_index(tmp_path / name)
        assert index.weighted
        assert verify(tmp_path / name).faults == []
        with ShardLoader(tmp_path / name, index, BatchPart(100, 0, 1, 4), 0) as loader:
            for batch in islice(loader, 7):
                assert batch.weight is not None
                found = [weight_of[x0.tobytes()] for x0 in batch.x0.numpy()]
                np.testing.assert_array_equal(batch.weight.numpy(), np.float32(found))


def test_weights_that_make_no_sense_are_refused_and_others_count_in_the_fingerprint(tmp_path: Path) -> None:
    columns = {"data_id": IDS, "source_row": ROWS}
    refusals = [
        (-WEIGHTS, "weight must be finite, not negative"),
        (0 * WEIGHTS, "not 0 throughout"),
        (WEIGHTS[1:], r"weight is \[699\] of float32; give one number a pair"),
        (WEIGHTS[:, None], r"weight is \[700, 1\] of float32"),
    ]
    for weights, says in refusals:
        with pytest.raises(InputError, match=says):
            read_table(str(npz(tmp_path / "t.npz", weight=weights, **columns)), (1, 8, 8))
    plain = read_table(str(npz(tmp_path / "t.npz", **columns)), (1, 8, 8))
    weighted = read_table(str(npz(tmp_path / "t.npz", weight=WEIGHTS, **columns)), (1, 8, 8))
    assert plain.fingerprint() != weighted.fingerprint()

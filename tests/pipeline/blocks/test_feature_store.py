"""The features on disk: bit by bit those in memory, whatever made them, and never those of other data."""

from pathlib import Path

import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.feature_store import MAP, load_map, make_features, open_features, save_map
from flowpairs.pipeline.blocks.features import CentredRows, Features, compute_features
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.rows import Rows

CUTS, COUNT = [70, 140], 151
ORIGIN = "0" * 64


@pytest.fixture(params=["uint8", "float32"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Rows:
    """Three parts on disk."""
    x = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 5, 6)).astype(request.param)
    parts = np.split(x if request.param == "uint8" else x / np.float32(100), CUTS)
    for number, part in enumerate(parts):
        row_set.write_part(tmp_path / row_set.part_name(number), part)
    paths = [tmp_path / row_set.part_name(number) for number in range(3)]
    return Rows(paths, [len(part) for part in parts], (1, 5, 6), request.param)


def fitted_to(rows: Rows, pca: int | None, *, flips: bool) -> Features:
    return fit_features([RowSample(rows, np.arange(len(rows)), flips)], pca)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("pca", [4, None])
def test_features_on_disk_are_those_in_memory(rows: Rows, pca: int | None, flips: bool, tmp_path: Path) -> None:
    fitted, where = fitted_to(rows, pca, flips=flips), tmp_path / "features"
    memory = compute_features(fitted, rows, flips=flips)
    disk = make_features(where, fitted, rows, ORIGIN, flips=flips, by_ray=False)
    ids = np.random.default_rng(1).permutation(len(memory))
    assert len(disk) == len(memory) == COUNT * (2 if flips else 1)
    assert disk.whole().tobytes() == memory.whole().tobytes()
    assert disk.take(ids).tobytes() == memory.whole()[ids].tobytes()
    assert files(where).keys() == {
        "manifest.json",
        "source.json",
        *map(row_set.part_name, range(6 if flips else 3)),
    }
    assert row_set.damages(where) == []
    again = open_features(where, fitted, rows, flips=flips)
    assert again.whole().tobytes() == memory.whole().tobytes()


@pytest.mark.usefixtures("local_ray")
def test_tasks_of_ray_write_the_same_bytes(rows: Rows, tmp_path: Path) -> None:
    fitted = fitted_to(rows, 4, flips=True)
    for name, by_ray in (("here", False), ("there", True)):
        make_features(tmp_path / name, fitted, rows, ORIGIN, flips=True, by_ray=by_ray)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_a_whole_set_is_kept_and_what_it_lost_is_made_again(rows: Rows, tmp_path: Path) -> None:
    fitted, where = fitted_to(rows, 4, flips=False), tmp_path / "features"
    make_features(where, fitted, rows, ORIGIN, flips=False, by_ray=False)
    whole, times = files(where), {path: path.stat().st_mtime_ns for path in where.iterdir()}
    make_features(where, fitted, rows, ORIGIN, flips=False, by_ray=False)
    assert {path: path.stat().st_mtime_ns for path in where.iterdir()} == times
    (where / "part-00001.npy").unlink()
    make_features(where, fitted, rows, ORIGIN, flips=False, by_ray=False)
    assert files(where) == whole


def test_features_of_other_data_or_another_map_are_made_anew(rows: Rows, tmp_path: Path) -> None:
    fitted, where = fitted_to(rows, 4, flips=False), tmp_path / "features"
    make_features(where, fitted, rows, ORIGIN, flips=False, by_ray=False)
    before = {path: path.stat().st_ino for path in where.glob("part-*.npy")}
    make_features(where, fitted, rows, "1" * 64, flips=False, by_ray=False)
    assert all(path.stat().st_ino != inode for path, inode in before.items())
    turned = Features(fitted.mean, -fitted.basis)
    disk = make_features(where, turned, rows, "1" * 64, flips=False, by_ray=False)
    np.testing.assert_array_equal(disk.whole(), -compute_features(fitted, rows, flips=False).whole())


def test_what_does_not_fit_the_rows_is_refused(rows: Rows, tmp_path: Path) -> None:
    fitted, where = fitted_to(rows, 4, flips=False), tmp_path / "features"
    save_map(fitted, where)
    with pytest.raises(InputError, match=r"manifest.json: missing; run the same `flowpairs couple` again"):
        open_features(where, load_map(where), rows, flips=False)
    make_features(where, fitted, rows, ORIGIN, flips=False, by_ray=False)
    assert (where / MAP).is_file()
    with pytest.raises(InputError, match=r"features 151 of \[4\] float32, not 302 of \[4\] float32; couple again"):
        open_features(where, fitted, rows, flips=True)


def test_all_coordinates_need_no_files(rows: Rows, tmp_path: Path) -> None:
    fitted = fitted_to(rows, None, flips=True)
    found = open_features(tmp_path / "none", fitted, rows, flips=True)
    assert isinstance(found, CentredRows)
    assert found.whole().tobytes() == compute_features(fitted, rows, flips=True).whole().tobytes()

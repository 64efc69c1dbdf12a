"""Samples as .h5ad: the same numbers as in .npz, readable by this project and by anndata."""

from pathlib import Path

import numpy as np
import pytest
from support.runs import MLP, write_run

from flowpairs.pipeline import data
from flowpairs.pipeline.config import DataConfig, validate
from flowpairs.pipeline.data.rows.make import read_small
from flowpairs.training.config import SampleConfig
from flowpairs.training.export.cell_file import write_cells
from flowpairs.training.sample import sample

pytest.importorskip("h5py", reason="the extra `cells` is not installed")


def test_the_same_samples_as_arrays_and_as_cells(tmp_path: Path) -> None:
    write_run(tmp_path / "run", MLP, (5,))
    config = SampleConfig(samples=20, solver="euler", steps=2)
    for name in ("led.npz", "led.h5ad"):
        sample(tmp_path / "run", config, tmp_path / name)
    with np.load(tmp_path / "led.npz") as file:
        expected = file["samples"]
    for column in ("X", "obsm/X_flow"):
        given = validate(DataConfig, {"path": str(tmp_path / "led.h5ad"), "column": column})
        found = read_small(given, data.check_data(given))
        np.testing.assert_array_equal(found.rows.read(np.arange(20)), expected)


def test_anndata_reads_starts_and_labels(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    samples, starts = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    write_cells(tmp_path / "led.h5ad", samples, starts, np.arange(6) % 2)
    cells = anndata.read_h5ad(tmp_path / "led.h5ad")
    np.testing.assert_array_equal(cells.X, samples)
    np.testing.assert_array_equal(cells.obsm["X_start"], starts)
    assert cells.obs["label"].tolist() == [0, 1, 0, 1, 0, 1]
    assert cells.obs_names[2] == "cell-2"
    assert cells.var_names.tolist() == ["coordinate-0", "coordinate-1", "coordinate-2"]

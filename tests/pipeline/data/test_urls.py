"""Data sets by URL are checked like local files; runs by URL are refused rather than put into a directory `s3:`."""

from pathlib import Path

import fsspec
import pytest
from support.datasets import read_data
from support.written import ROADS, write

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import validate
from flowpairs.pipeline.data import check_data
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import check_directory


@pytest.mark.parametrize("road", ROADS)
def test_file_and_memory_urls_are_checked_like_paths(road, cifar, tmp_path):
    local = write(road, tmp_path / "data", cifar[0][:20], cifar[1][:20])
    spec = check_data(local)
    assert check_data(local.model_copy(update={"path": Path(local.path).as_uri()})) == spec
    memory = fsspec.filesystem("memory")
    memory.put(local.path, f"/{road}{Path(local.path).suffix}", recursive=Path(local.path).is_dir())
    remote = check_data(local.model_copy(update={"path": f"memory://{road}{Path(local.path).suffix}"}))
    assert (remote.shape, remote.kind, remote.files) == (spec.shape, spec.kind, spec.files)
    assert remote.rows in (spec.rows, None)  # tars do not say before they are read


@pytest.mark.parametrize("name", ["q?x", "h#x=1", "p%41x", "c::d", "b[1]", "~x"])
@pytest.mark.parametrize("road", ["npz", "folder", "tars", "parquet"])
def test_any_name_of_a_directory_will_do(road, name, cifar, tmp_path):
    local = write(road, tmp_path / name, cifar[0][:20], cifar[1][:20])
    plain = write(road, tmp_path / "plain", cifar[0][:20], cifar[1][:20])
    expected = read_data(plain, check_data(plain))
    for path in (local.path, Path(local.path).as_uri()):
        named = local.model_copy(update={"path": path})
        assert read_data(named, check_data(named)).fingerprint == expected.fingerprint


@pytest.mark.parametrize("url", ["s3://bucket/run", "memory://run"])
def test_runs_at_urls_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = {
        "pairs": {"dir": "pairs"},
        "model": {"kind": "mlp"},
        "train": {"steps": 1, "batch": 1},
        "output": {"dir": url},
    }
    with pytest.raises(InputError, match=f"output.dir='{url}': runs are not written to URLs"):
        check_directory(validate(TrainConfig, run))
    assert not list(tmp_path.iterdir())

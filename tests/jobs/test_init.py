"""`flowpairs init`: every kind gives configs that load and run; `--dry-run` checks them and writes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flowpairs.jobs.cli import application
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.training.config import TrainConfig

RNG = np.random.default_rng(0)
HERE = ("cluster.actors=0", "coupling.n=64", "output.pairs=128")


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "150"}).invoke(application(), list(arguments))


def write_data(kind: str, directory: Path) -> list[str]:
    """Small data of a kind; the options that name them."""
    directory.mkdir()
    if kind == "images":
        for number in range(80):
            pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(directory / f"{number}.png")
        return ["--data", str(directory)]
    if kind == "latents":
        np.save(directory / "latents.npy", RNG.normal(size=(80, 4, 8, 8)).astype(np.float32))
        return ["--data", str(directory / "latents.npy")]
    if kind == "cells":
        h5py = pytest.importorskip("h5py", reason="the extra `cells` is not installed")
        with h5py.File(directory / "cells.h5ad", "w") as file:
            file["X"] = RNG.normal(size=(240, 6)).astype(np.float32)
            file["obsm/X_pca"] = RNG.normal(size=(240, 5)).astype(np.float32)
            file["obs/day"] = np.repeat([0.0, 1.0, 2.0], 80)
        return ["--data", str(directory / "cells.h5ad")]
    if kind == "two-sided":
        for name in ("to", "from"):
            np.save(directory / f"{name}.npy", RNG.normal(size=(80, 6)).astype(np.float32))
        return ["--data", str(directory / "to.npy"), "--source", str(directory / "from.npy")]
    return []


def files(directory: Path) -> dict[str, Any]:
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*")}


@pytest.mark.parametrize("kind", ["digits", "images", "latents", "cells", "two-sided"])
def test_every_kind_runs_as_it_is_written(kind: str, tmp_path: Path) -> None:
    options = write_data(kind, tmp_path / "data")
    work = tmp_path / "work"
    done = run("init", kind, str(work), *options)
    assert done.exit_code == 0, done.output
    assert f"flowpairs couple   {work / 'couple.yaml'}" in done.output
    couple, train = load(CoupleConfig, work / "couple.yaml"), load(TrainConfig, work / "train.yaml")
    assert couple.output.dir == train.pairs.dir == str(work / "pairs")
    assert (work / "couple.yaml").read_text().count("#") >= 3
    before = files(tmp_path)
    dry = run("couple", str(work / "couple.yaml"), "--dry-run", *HERE)
    assert dry.exit_code == 0, dry.exception
    assert "nothing was written" in dry.output
    assert files(tmp_path) == before
    made = run("couple", str(work / "couple.yaml"), *HERE)
    assert made.exit_code == 0, made.exception
    before = files(tmp_path)
    dry = run("train", str(work / "train.yaml"), "--dry-run", "train.batch=32")
    assert dry.exit_code == 0, dry.exception
    assert "128 of shape" in dry.output
    assert files(tmp_path) == before


def test_without_data_it_says_what_to_edit_and_files_are_never_replaced(tmp_path: Path) -> None:
    done = run("init", "images", str(tmp_path))
    assert "data.path names no data yet" in done.output
    assert "has a couple.yaml" in str(run("init", "images", str(tmp_path)).exception)
    assert "no such file" in str(run("couple", str(tmp_path / "couple.yaml"), "--dry-run").exception)
    assert "come with scikit-learn" in str(run("init", "digits", str(tmp_path / "b"), "--data", "x").exception)


def test_a_dry_run_refuses_what_the_command_would_refuse(tmp_path: Path) -> None:
    config = "configs/digits/couple.yaml"
    for wrong, says in (
        ("coupling.n=5000", "5000"),
        ("sampling.direction=sideways", "sampling.direction"),
        ("data.path=nowhere.npz", "no such file"),
        (f"output.dir={Path(__file__)}", "a file is in the way"),
    ):
        given = ["coupling.resample=null", "coupling.n=500", f"output.dir={tmp_path / 'new'}", wrong]
        dry = run("couple", config, "--dry-run", *given)
        assert says in str(dry.exception), says
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_both_jobs(tmp_path: Path) -> None:
    outputs = [f"couple.output.dir={tmp_path / 'pairs'}", f"train.output.dir={tmp_path / 'run'}"]
    dry = run("stream", "configs/digits/stream.yaml", "--dry-run", *outputs)
    assert dry.exit_code == 0, dry.exception
    assert "couple: pairs" in dry.output
    assert "131,072 from 16 blocks" in dry.output
    assert "train: steps" in dry.output
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_there(tmp_path: Path) -> None:
    config = ["configs/digits/couple.yaml", f"output.dir={tmp_path / 'p'}", "cluster.actors=0", "coupling.n=64"]
    config += ["coupling.resample=null", "output.pairs=192"]
    assert run("couple", *config).exit_code == 0
    (tmp_path / "p/index.json").unlink()
    (tmp_path / "p/shards/pairs-000002.json").unlink()
    assert "2 of 3 blocks" in run("couple", *config, "--dry-run").output
    again = run("couple", *config)
    assert "going on, 2 of 3 blocks are there" in again.output
    assert "complete already" in run("couple", *config).output

"""Stores of pairs that somebody else made, and samples that were made anywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from typer.testing import CliRunner

import flowpairs as fp
from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError

RNG = np.random.default_rng(0)
X0, X1 = RNG.normal(size=(2, 300, 3)).astype(np.float32)
LABELS = np.arange(300) % 4


def run(*arguments: str) -> Any:
    return CliRunner().invoke(application(), list(arguments))


def test_the_pairs_come_back_bit_by_bit_and_the_store_is_sound(tmp_path: Path) -> None:
    index = fp.write(tmp_path / "store", X0, X1, LABELS)
    assert index is not None
    store = fp.PairStore(tmp_path / "store")
    assert not store.verify().faults
    assert (index.pairs, index.num_classes, index.shape) == (300, 4, (3,))
    assert store.status().complete
    pairs = fp.PairDataset(tmp_path / "store")[:]
    for name, wanted in (("x0", X0), ("x1", X1), ("label", LABELS)):
        assert np.array_equal(pairs[name].numpy(), wanted)
    batch = next(iter(fp.PairLoader(tmp_path / "store", batch_size=100)))
    assert len(batch["data_id"].unique()) == 100


def test_images_are_read_as_data_are(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    fp.write(tmp_path / "store", torch.zeros(40, 3, 8, 8), images)
    read = fp.PairDataset(tmp_path / "store")[:]["x1"].numpy()
    assert np.allclose(read, images.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)


def test_parts_in_any_order_make_the_same_store_and_are_not_made_again(tmp_path: Path) -> None:
    parts = [slice(0, 100), slice(100, 180), slice(180, 300)]
    for order, name in (([0, 1, 2], "a"), ([2, 0, 1], "b")):
        assert fp.missing_parts(tmp_path / name, 3) == [0, 1, 2]
        for step, part in enumerate(order):
            done = fp.write(tmp_path / name, X0[parts[part]], X1[parts[part]], part=part, parts=3)
            assert (done is not None) == (step == 2)
            assert fp.missing_parts(tmp_path / name, 3) == sorted(set(range(3)) - set(order[: step + 1]))
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {file.name for file in files} >= {"index.json", "pairs-000002.tar"}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    written = (tmp_path / "a/shards/pairs-000001.tar").stat().st_mtime_ns
    fp.write(tmp_path / "a", X0[parts[1]], X1[parts[1]], part=1, parts=3)
    assert (tmp_path / "a/shards/pairs-000001.tar").stat().st_mtime_ns == written


def test_what_is_wrong_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x0": X0[:9], "x1": X1}, "x0: 9 rows of shape"),
        ({"x0": X0 * np.nan, "x1": X1}, "x0: NaN or Inf in the data"),
        ({"x0": X0, "x1": X1, "labels": LABELS - 1}, "labels: shape"),
        ({"x0": X0, "x1": X1, "data_ids": LABELS[:5]}, "data_ids: shape"),
        ({"x0": X0, "x1": X1, "part": 2, "parts": 2}, "part=2"),
        ({"x0": X0, "x1": X1, "parts": 0}, "parts=0"),
    ]
    for arguments, says in wrong:
        with pytest.raises(InputError, match=says):
            fp.write(tmp_path / "none", **arguments)
    assert not (tmp_path / "none").exists()
    fp.write(tmp_path / "store", X0, X1, parts=2)
    with pytest.raises(InputError, match="with other pairs"):
        fp.write(tmp_path / "store", X1, X0, parts=2)
    with pytest.raises(InputError, match="begun with 2"):
        fp.write(tmp_path / "store", X0, X1, part=2, parts=3)
    with pytest.raises(InputError, match=r"labels: True.*"):
        fp.write(tmp_path / "store", X0, X1, LABELS, part=1, parts=2)


def test_the_command_makes_the_same_store(tmp_path: Path) -> None:
    files = []
    for number, part in enumerate((slice(0, 200), slice(200, 300))):
        files.append(str(tmp_path / f"{number}.npz"))
        np.savez(files[-1], x0=X0[part], x1=X1[part], label=LABELS[part])
        fp.write(tmp_path / "ours", X0[part], X1[part], LABELS[part], part=number, parts=2)
    done = run("write", str(tmp_path / "store"), *files)
    assert done.exit_code == 0, done.output
    assert "300 pairs of shape [3], 4 classes" in done.output
    assert (tmp_path / "store/index.json").read_bytes() == (tmp_path / "ours/index.json").read_bytes()
    assert "x0 and x1" in str(run("write", str(tmp_path / "other"), str(tmp_path / "none.npz")).exception)


def test_given_samples_have_the_distance_of_the_formula(tmp_path: Path) -> None:
    fp.write(tmp_path / "store", X0, X1)
    samples = RNG.normal(0.3, 1.2, (500, 3)).astype(np.float32)
    np.savez(tmp_path / "made.npz", samples=samples, other=LABELS)
    np.save(tmp_path / "made.npy", samples)
    a, b = np.cov(X1.T.astype(float)), np.cov(samples.T.astype(float))
    gap = ((X1.mean(0, dtype=float) - samples.mean(0, dtype=float)) ** 2).sum()
    wanted = gap + np.trace(a + b - 2 * sqrtm(a @ b).real)
    for file in ("made.npz", "made.npy"):
        done = run("evaluate", str(tmp_path / "store"), "--samples", str(tmp_path / file), "--json")
        assert done.exit_code == 0, done.output
        [fd] = [float(line.split(":")[1].rstrip(",")) for line in done.output.splitlines() if '"fd"' in line]
        assert fd == pytest.approx(wanted, rel=1e-5)
    assert (
        "Fréchet distance" in run("evaluate", str(tmp_path / "store"), "--samples", str(tmp_path / "made.npy")).output
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [(np.zeros((5, 4), np.float32), "samples of shape"), (np.full((5, 3), np.inf, np.float32), "has NaN or Inf")],
)
def test_samples_that_do_not_fit_are_refused(values: np.ndarray, says: str, tmp_path: Path) -> None:
    fp.write(tmp_path / "store", X0, X1)
    np.save(tmp_path / "made.npy", values)
    assert says in str(run("evaluate", str(tmp_path / "store"), "--samples", str(tmp_path / "made.npy")).exception)
    refused = run("evaluate", str(tmp_path / "store"), "euler=[2]", "--samples", str(tmp_path / "made.npy"))
    assert "euler: samples that are given" in str(refused.exception)

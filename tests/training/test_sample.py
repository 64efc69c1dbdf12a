"""`flowpairs sample`: the same samples in every form and batch, and a sentence for what cannot be given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.runs import MEANFLOW, MLP, SF2M, UNET, write_run
from support.stores import write_store
from typer import Typer
from typer.testing import CliRunner

from flowpairs.jobs.sample import sample as command
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.training.config import SampleConfig
from flowpairs.training.models.mlp import MLP as Network
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.sample import sample

IMAGE = (1, 8, 8)


def drawn(run: Path, **asked: Any) -> dict[str, np.ndarray]:
    sample(run, SampleConfig(**asked), run / "out.npz")
    with np.load(run / "out.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("solver", "steps", "changes"),
    [("dopri5", None, {}), ("midpoint", 3, {}), ("heun", 3, {}), ("sde", 3, SF2M), ("jump", 2, MEANFLOW)],
)
def test_samples_follow_from_the_seed_and_not_from_the_batch(
    solver: Any, steps: int | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    write_run(tmp_path, MLP, (2,), **changes)
    asked: dict[str, Any] = {"samples": 30, "solver": solver, "steps": steps}
    first, again, small = (drawn(tmp_path, batch=batch, **asked)["samples"] for batch in (512, 512, 7))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, small, atol=1e-3 if solver == "dopri5" else 1e-5)  # dopri5 steps suit the batch
    assert np.abs(first - drawn(tmp_path, seed=1, **asked)["samples"]).max() > 0.1
    fewer = drawn(tmp_path, batch=7, **asked | {"samples": 14})["samples"]
    np.testing.assert_array_equal(fewer, small[:14])
    later = drawn(tmp_path, batch=7, **asked | {"samples": 16, "first": 14})["samples"]
    np.testing.assert_array_equal(later, small[14:])


def test_euler_is_a_plain_loop_over_the_averaged_weights(tmp_path: Path) -> None:
    write_run(tmp_path, MLP, (2,))
    checkpoint = tmp_path / "checkpoints" / "step-000000010"
    network = Network(2, 16, 1, 0)
    network.load_state_dict(torch.load(checkpoint / STATE_FILE, weights_only=True)["ema"])
    x = torch.from_numpy(noise.gaussian(3, 0, 40, 2, noise.Stream.STARTS))
    with torch.no_grad():
        for step in range(5):
            x = x + network(torch.full((40,), step / 5), x) / 5
    (tmp_path / "train.json").unlink()  # the run goes on; its checkpoint is there already, and so are its pairs
    write_store(tmp_path / "gone", np.zeros((4, 2)), np.zeros((4, 2)))
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("dir: gone", f"dir: {tmp_path / 'gone'}"))
    sample(checkpoint, SampleConfig(samples=40, solver="euler", steps=5, seed=3), tmp_path / "out.npz")
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["samples"], x.numpy(), atol=1e-5)


def test_every_form_holds_the_same_images(tmp_path: Path) -> None:
    write_run(tmp_path, UNET, IMAGE, classes=3)
    asked = SampleConfig(samples=5, solver="euler", steps=2, labels=(2, 0))
    arrays = drawn(tmp_path, **asked.model_dump())
    assert set(arrays["labels"].tolist()) == {0, 2}
    pixels = np.clip((arrays["samples"] + 1) * 127.5, 0, 255)

    sample(tmp_path, asked, tmp_path / "out.png")
    grid = np.asarray(Image.open(tmp_path / "out.png").convert("L"))[::8, ::8]  # tiles of 8 pixels are enlarged
    assert grid.shape == (2 * 8 + 1, 3 * 8 + 2)
    sample(tmp_path, asked, tmp_path / "images")
    files = sorted((tmp_path / "images").rglob("*.png"), key=lambda path: path.name)
    names = [f"{label:04d}/{row:06d}.png" for row, label in enumerate(arrays["labels"])]
    assert [str(path.relative_to(tmp_path / "images")) for path in files] == names
    for row, path in enumerate(files):
        np.testing.assert_allclose(np.asarray(Image.open(path)), pixels[row, 0], atol=0.51)
        top, left = row // 3 * 9, row % 3 * 9
        np.testing.assert_allclose(grid[top : top + 8, left : left + 8], pixels[row, 0], atol=0.51)
    with pytest.raises(InputError, match="not an empty directory"):
        sample(tmp_path, asked, tmp_path / "images")


def test_labels_are_as_frequent_as_in_the_data_where_none_are_asked_for(tmp_path: Path) -> None:
    x, labels = np.zeros((100, 2)), np.repeat([0, 2], [25, 75])
    write_store(tmp_path / "store", x, x, labels=labels)
    write_run(tmp_path / "run", MLP, (2,), classes=3, dropout=0.1, pairs=str(tmp_path / "store"))
    found = drawn(tmp_path / "run", samples=2000, solver="euler", steps=1)["labels"]
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 2000, [0.25, 0, 0.75], atol=0.05)  # five sigmas
    guided = drawn(tmp_path / "run", samples=8, solver="euler", steps=1, labels=(1,), guidance=2.0)
    plain = drawn(tmp_path / "run", samples=8, solver="euler", steps=1, labels=(1,))
    np.testing.assert_array_equal(drawn(tmp_path / "run", samples=9, solver="euler", steps=1)["labels"], found[:9])
    np.testing.assert_array_equal(
        drawn(tmp_path / "run", first=9, samples=4, solver="euler", steps=1)["labels"], found[9:13]
    )
    assert (guided["labels"] == 1).all()
    assert np.abs(guided["samples"] - plain["samples"]).max() > 1e-4
    (tmp_path / "store" / "index.json").unlink()
    with pytest.raises(InputError, match=r"index.json.*say which by --label"):
        drawn(tmp_path / "run", samples=8)


def test_points_in_the_plane_have_a_picture(tmp_path: Path) -> None:
    write_run(tmp_path, MLP, (2,))
    sample(tmp_path, SampleConfig(samples=9), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


@pytest.mark.parametrize(
    ("shape", "changes", "asked", "output", "sentence"),
    [
        ((5,), {}, {}, "out.png", r"data of shape \[5\] are neither images nor points; give a file.npz"),
        ((2,), {}, {}, "out", r"points in the plane are no images; give a file.png or file.npz"),
        ((2,), {}, {}, "out.jpg", r"ends in none of .npz, .png and .h5ad; give such a file"),
        ((2,), {}, {}, "none/out.npz", r"not a file in an existing directory; give one, as in samples.npz"),
        ((2,), {}, {"solver": "euler"}, "out.npz", r"--solver euler: takes equal steps; say how many"),
        ((2,), {}, {"steps": 4}, "out.npz", r"--steps 4: dopri5 chooses its own; leave them out"),
        (
            (2,),
            {},
            {"solver": "jump", "steps": 4},
            "out.npz",
            r"by the average velocity, which objective.kind=meanflow",
        ),
        ((2,), {}, {"solver": "sde", "steps": 4}, "out.npz", r"--solver sde: the score .* or give another solver"),
        ((2,), {}, {"labels": (1,)}, "out.npz", r"--label 1: the network takes none"),
        (
            (2,),
            {"classes": 3},
            {"labels": (3,)},
            "out.npz",
            r"--label 3: not a label of these data; give one of 0 to 2",
        ),
        ((2,), {"classes": 3}, {"guidance": 2.0}, "out.npz", r"--guidance 2: the run hid no labels"),
    ],
)
def test_what_cannot_be_given_is_refused(
    shape: tuple[int, ...], changes: dict[str, Any], asked: dict[str, Any], output: str, sentence: str, tmp_path: Path
) -> None:
    write_run(tmp_path, MLP, shape, **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=sentence):
        sample(tmp_path, SampleConfig(samples=4, **asked), tmp_path / output)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", MLP, (2,))
    write_run(tmp_path / "b", {**MLP, "width": 24}, (2,))
    (tmp_path / "b" / "config.yaml").write_bytes((tmp_path / "a" / "config.yaml").read_bytes())
    with pytest.raises(InputError, match="of another network than"):
        sample(tmp_path / "b", SampleConfig(samples=4), tmp_path / "out.npz")
    loose = tmp_path / "loose" / "step"
    loose.parent.mkdir()
    (tmp_path / "a" / "checkpoints" / "step-000000010").rename(loose)
    with pytest.raises(InputError, match="describes it"):
        sample(loose, SampleConfig(samples=4), tmp_path / "out.npz")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    write_run(tmp_path, MLP, (2,))
    app = Typer()
    app.command()(command)
    asked = ["--count", "6", "--solver", "euler", "--steps", "3", "--output", str(tmp_path / "out.npz")]
    result = CliRunner().invoke(app, [str(tmp_path), *asked])
    assert result.exit_code == 0, result.output
    assert "6 samples by euler, 3 function evaluations each, seed 0" in " ".join(result.output.split())
    assert np.load(tmp_path / "out.npz")["samples"].shape == (6, 2)

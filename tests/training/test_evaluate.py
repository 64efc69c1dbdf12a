"""What an evaluation is compared with, and what it leaves for the report; test_trainer.py checks its figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import MLP, write_run
from support.stores import write_store

from flowpairs.jobs.evaluate import PRESETS, evaluation_config
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, save, validate
from flowpairs.training.config import EvaluateConfig
from flowpairs.training.evaluate import evaluate, trajectories
from flowpairs.training.pairs.endpoints import read_endpoints
from flowpairs.training.run.trained import read_trained
from flowpairs.training.sampling.sampler import Sampler


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_what_published_figures_were_measured_with(preset: Any) -> None:
    config = evaluation_config(preset, None)
    assert (config.samples, config.euler, config.rtol, config.atol) == (50_000, (4, 8, 16), 1e-5, 1e-5)
    assert (config.features, config.split) == ("inception", "train")
    other = evaluation_config(preset, ["samples=64", "features=pca", "pca=8", "euler=[2]", "split=test"])
    assert other == EvaluateConfig(samples=64, features="pca", pca=8, euler=(2,), split="test", rtol=1e-5, atol=1e-5)


def test_a_preset_without_its_weights_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Ray is started; of latents, that they need a decoder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for shape, sentence in (
        ((3, 4, 4), "features='inception': (torch-fidelity is not installed|its weights are not at hand)"),
        ((4, 4, 4), r"features='inception': needs images of 3 channels.*features=FILE.pt, their decoder"),
    ):
        x = np.zeros((8, *shape), np.float32)
        write_store(tmp_path / f"store{shape[0]}", x, x)
        run = tmp_path / f"run{shape[0]}"
        write_run(run, MLP, shape, pairs=str(tmp_path / f"store{shape[0]}"))
        with pytest.raises(InputError, match=sentence):
            evaluate(run, evaluation_config("cifar10", None))
        assert not (run / "evaluation.json").exists()


def test_the_split_of_the_pairs_is_named_and_another_refused(tmp_path: Path) -> None:
    x = np.zeros((8, 2), np.float32)
    index = write_store(tmp_path / "store", x, x)
    store = str(tmp_path / "store")
    assert read_endpoints(store, index, EvaluateConfig(split="train")).named["split"] == "train"  # as the command says
    tree = {"data": {"path": "images", "split": "test"}, "coupling": {"method": "independent", "n": 8}}
    coupled = validate(CoupleConfig, tree | {"output": {"dir": store, "pairs": 8}})
    save(coupled, tmp_path / "store" / "config.yaml", "a test's")
    named = {"data": "images", "split": "test", "held_out": False, "mirrored": False}
    assert read_endpoints(store, index, EvaluateConfig()).named == named
    with pytest.raises(InputError, match=r"^split='train': the data of the pairs are of 'test'; give data="):
        read_endpoints(store, index, EvaluateConfig(split="train"))


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((2,), (64, 33, 2)), ((5,), (64, 33, 2)), ((1, 4, 4), (8, 9, 1, 4, 4)), ((4, 2, 2), (64, 33, 2)), ((1,), None)],
)
def test_trajectories_lead_from_the_noise_to_the_samples(
    shape: tuple[int, ...], drawn: tuple[int, ...] | None, tmp_path: Path
) -> None:
    """Images as they are; what is neither image nor planar on two principal directions, by NumPy's own SVD."""
    write_run(tmp_path, MLP, shape)
    real = np.random.default_rng(0).normal(size=(200, *shape)) * np.arange(1, shape[-1] + 1)
    sampler = Sampler(read_trained(tmp_path), EvaluateConfig(samples=64), None, torch.device("cpu"))
    found = trajectories(sampler, torch.from_numpy(real).float())
    if drawn is None:
        assert found is None
        return
    assert found is not None
    paths, predicted = found
    assert paths.shape == predicted.shape == drawn
    np.testing.assert_array_equal(predicted[:, -1], paths[:, -1])  # at t = 1 there is nothing left to predict
    if len(drawn) > 3 or shape == (2,):
        [one_step] = [x for x, _ in sampler.draw("euler", 1, [slice(0, 64)])]
        np.testing.assert_allclose(predicted[:, 0], one_step[: len(predicted)].numpy(), atol=1e-5)
    noise, samples = (
        x[: len(paths)].numpy() for x in (sampler.starts(slice(0, 64)), sampler.samples("dopri5", None)[0])
    )
    if len(drawn) == 3 and shape != (2,):
        flat = real.reshape(200, -1)
        directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2].T
        noise, samples = ((x.reshape(64, -1) - flat.mean(0)) @ directions for x in (noise, samples))
        noise, samples, paths = np.abs(noise), np.abs(samples), np.abs(paths)  # a direction's sign is free
    np.testing.assert_allclose(paths[:, 0], noise, atol=1e-4)
    np.testing.assert_allclose(paths[:, -1], samples, atol=1e-3)

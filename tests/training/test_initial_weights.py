"""A run that starts from the weights of another run, an export or diffusers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import MLP, SF2M, UNET, write_run

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.export.write import export
from flowpairs.training.run.initial_weights import load_init, pin_init, read_init
from flowpairs.training.run.trained import read_trained


def started(config: TrainConfig, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The weights before the first step."""
    network = objectives.build_network(config, shape, 0)
    assert config.train.init is not None
    load_init(network, config.train.init)
    return network.state_dict()


def with_init(config: TrainConfig, where: Path, **changes: Any) -> TrainConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"init": str(where)} | changes)})


@pytest.mark.parametrize(
    ("model", "shape", "changes"),
    [(MLP, (3,), {}), (MLP, (3,), SF2M), (UNET, (1, 8, 8), {})],
    ids=["mlp", "sf2m", "unet"],
)
def test_runs_checkpoints_and_exports_give_the_same_weights(
    model: dict[str, Any], shape: tuple[int, ...], changes: dict[str, Any], tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    config = write_run(run, model, shape, **changes)
    export(run, out, "mit")
    expected = read_trained(run).network(torch.device("cpu")).state_dict()
    fingerprints = set()
    for where in (run, run / "checkpoints" / "step-000000010", out):
        found = started(with_init(config, where), shape)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        fingerprints.add(pin_init(with_init(config, where)).train.init_fingerprint)
    assert len(fingerprints) == 1
    first = objectives.build_network(config, shape, 0).state_dict()
    assert any(not torch.equal(first[name], expected[name]) for name in expected)


def test_a_unet_of_diffusers_alone(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run", UNET, (1, 8, 8))
    network: Any = read_trained(tmp_path / "run").network(torch.device("cpu"))
    network.unet.save_pretrained(tmp_path / "pipeline" / "unet")
    for where in (tmp_path / "pipeline", tmp_path / "pipeline" / "unet"):
        found = started(with_init(config, where), (1, 8, 8))
        assert all(torch.equal(found[f"unet.{name}"], value) for name, value in network.unet.state_dict().items())


def test_other_weights_are_refused(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run", MLP, (3,))
    wide = write_run(tmp_path / "wide", MLP | {"width": 32}, (3,))
    with pytest.raises(InputError, match=r"train.init='.*': weights of another network, first '.*' of \d+ that differ"):
        started(with_init(wide, tmp_path / "run"), (3,))
    with pytest.raises(
        InputError, match=r"train.init_fingerprint='0': the weights of train.init='.*' have '[0-9a-f]{64}'"
    ):
        pin_init(with_init(config, tmp_path / "run", init_fingerprint="0"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"train.init='.*empty': no weights there; give a run"):
        read_init(str(tmp_path / "empty"))
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"model.safetensors cannot be read"):
        read_init(str(tmp_path / "empty"))
    assert pin_init(config) is config

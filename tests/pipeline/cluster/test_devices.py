"""The device of an actor, and teams that cannot work on theirs."""

import pytest
import ray
import torch
from pydantic import ValidationError

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.devices import assigned_device, check_alike
from flowpairs.pipeline.config import CoupleConfig


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("given", [[], [3]])
def test_an_actor_uses_the_gpu_that_ray_gave_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, given: list[int], seen: bool
) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: given)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    if given and not seen:
        with pytest.raises(InputError, match=r"GPU 3 of node .* finds no CUDA device; install .* or give 0"):
            assigned_device()
    else:
        assert assigned_device() == ("cuda" if given else "cpu")


def test_a_team_on_unlike_gpus_is_refused() -> None:
    check_alike(["NVIDIA L4", "NVIDIA L4"])
    with pytest.raises(InputError, match=r"actors_per_block=3: a team on NVIDIA A10G and NVIDIA L4"):
        check_alike(["NVIDIA L4", "NVIDIA A10G", "NVIDIA L4"])


def config(method: str, **cluster: float) -> CoupleConfig:
    return CoupleConfig.model_validate(
        {
            "data": {"path": "data.npy"},
            "coupling": {"method": method, "n": 64, "rel_eps": 0.1},
            "output": {"dir": "out", "pairs": 64},
            "cluster": cluster,
        }
    )


def test_actors_that_solve_together_need_whole_gpus() -> None:
    for method, cluster in (
        ("sinkhorn", {"gpus_per_actor": 0.5, "actors_per_block": 2}),
        ("semidiscrete", {"gpus_per_actor": 0.5}),
        ("semidiscrete", {"gpus_per_actor": 0.5, "actors": 2}),
    ):
        with pytest.raises(ValidationError, match=r"gpus_per_actor=0.5: actors that solve together"):
            config(method, **cluster)
    for method, cluster in (
        ("sinkhorn", {"gpus_per_actor": 0.5}),
        ("sinkhorn", {"gpus_per_actor": 1, "actors_per_block": 2}),
        ("semidiscrete", {"gpus_per_actor": 0.5, "actors": 1}),
        ("semidiscrete", {"gpus_per_actor": 2}),
    ):
        config(method, **cluster)

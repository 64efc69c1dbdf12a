"""The device of an actor, and teams that cannot work on theirs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from pydantic import ValidationError
from support.couplings import settings

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.cluster.devices import assigned_device, check_alike
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.cluster.trial_runs import rows_of_sample, trial_sizes
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.couple import survey_job
from flowpairs.pipeline.plan import gpu_need
from flowpairs.pipeline.recompute import device_of
from flowpairs.pipeline.solve.device_memory import NOISE, block_bytes, largest_block
from flowpairs.pipeline.solve.sampled import sample_inputs
from flowpairs.pipeline.solve.timed import TimedSolver


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


def config(method: str, n: int = 64, **cluster: float) -> CoupleConfig:
    return CoupleConfig.model_validate(
        {
            "data": {"path": "data.npy"},
            "coupling": {"method": method, "n": n, "rel_eps": 0.1},
            "output": {"dir": "out", "pairs": n},
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


def test_a_block_is_recomputed_on_the_kind_of_device_that_made_it() -> None:
    made = {"block": 4, "device": "NVIDIA L4", "torch": "2.13.0"}
    assert device_of(made, "NVIDIA L4") == "cuda"
    assert device_of({**made, "device": "cpu"}, "NVIDIA L4") == "cpu"
    assert device_of({**made, "device": "cpu"}, None) == "cpu"
    assert device_of({"block": 4}, None) == "cpu"
    for gpu in (None, "NVIDIA A10G"):
        with pytest.raises(InputError, match=rf"block 4: made on NVIDIA L4 by torch 2.13.0.*has {gpu or 'none'}: run"):
            device_of(made, gpu)


def test_the_largest_block_is_the_one_that_just_fits() -> None:
    for memory, d in ((8e10, 64), (8e10, 12288), (2.4e10, 500)):
        n = largest_block(memory, d)
        assert block_bytes(n, n, d) <= memory < block_bytes(n + 1, n + 1, d)
    assert largest_block(1e9, 64) == 0


class FullSolver:
    """A solver of blocks whose GPU is full."""

    def __init__(self, n: int, d: int) -> None:
        space = SimpleNamespace(map=SimpleNamespace(dim=d))
        asked = config("sinkhorn", n)
        self.job = SimpleNamespace(blocks=divide(asked, n, None), space=space, config=asked)

    def solve(self, number: int, ahead: int | None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_full_gpu_is_one_sentence_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 24 * 10**9))
    solver: Any = FullSolver(2**20, 500)
    with pytest.raises(
        JobError, match=r"block 7: out of memory of a GPU with 24 GB at n=1048576, m=1048576, d=500"
    ) as at:
        TimedSolver(solver).solve(7)
    assert f"about n=m={largest_block(24e9, 500)} would fit" in str(at.value)
    assert "\n" not in str(at.value)


def test_trials_on_a_gpu_are_large_enough_to_keep_it_busy() -> None:
    asked = config("sinkhorn", 2**19)
    blocks = divide(asked, 2**19, None)
    assert trial_sizes(asked, blocks, ActorShape(1, 1, 1.0)) == [2**15, 2**17]
    assert trial_sizes(asked, blocks, ActorShape(1, 1, 0.0)) == [1024, 4096]


def test_a_forecast_refuses_a_block_that_a_gpu_cannot_hold() -> None:
    asked = config("sinkhorn", 2**21)
    blocks = divide(asked, 2**21, None)
    alone, both = block_bytes(2**21, 2**21, 64), block_bytes(2**21, 2**21, 64) + 4 * 64 * 2**22
    assert gpu_need(asked, blocks, 64, 8e10) == round(both + NOISE) < 8e10, "and the points of the next block"
    assert gpu_need(asked, blocks, 64, both) == round(alone), "which are made in turn where there is no room for them"
    assert gpu_need(asked, blocks, 64, 0) == 0, "there is no GPU"
    with pytest.raises(InputError, match=r"n=2097152: .* of a GPU, and an actor has 24 GB; give coupling\.n=") as at:
        gpu_need(asked, blocks, 500, 2.4e10)
    fits = int(str(at.value).partition("give coupling.n=")[2].split()[0])
    smaller = config("sinkhorn", fits)
    assert gpu_need(smaller, divide(smaller, fits, None), 500, 2.4e10) <= 2.4e10


def test_the_data_of_a_semidiscrete_coupling_that_a_gpu_does_not_hold_are_refused() -> None:
    asked = config("semidiscrete", 64)
    blocks = divide(asked, 2_560_000, None)
    need = gpu_need(asked, blocks, 3072, 8e10)
    assert 8 * 3072 * 2_560_000 < need < 8e10
    assert gpu_need(asked, blocks, 3072, 0) == 0, "there is no GPU"
    with pytest.raises(InputError, match=r"2,560,000 data of 3,072 features take about .* GB of a GPU"):
        gpu_need(asked, blocks, 3072, 4e10)


def test_a_team_shares_the_rows_of_a_block_and_not_its_points() -> None:
    alone, shared = block_bytes(2**20, 2**20, 64), block_bytes(2**20, 2**20, 64, team=8)
    assert alone / 8 < shared < alone
    assert largest_block(8e10, 64, team=8) > largest_block(8e10, 64)


def test_a_forecast_samples_enough_rows_for_the_trials_on_a_gpu(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((2**15, 2), np.float32) + np.arange(2**15)[:, None])
    asked = {"data": {"path": str(tmp_path / "rows.npy"), "label": None}, "coupling": {"n": 2**15}}
    job, surveyed = survey_job(settings(tmp_path / "s", **asked, output={"pairs": 2**15}))
    blocks = divide(job, 2**15, None)
    assert rows_of_sample(job, blocks, ActorShape(1, 1, 0.0)) == 0, "on CPUs blocks are small"
    assert sample_inputs(job, surveyed, tmp_path / "s").most == 8192
    wanted = rows_of_sample(job, blocks, ActorShape(1, 1, 1.0))
    assert sample_inputs(job, surveyed, tmp_path / "s", wanted).most == wanted == 2**15

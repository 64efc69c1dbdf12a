"""Pairs that are made as a sample of a job are those that the job writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.couplings import couple_here, settings

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.plan import Forecaster, survey_plan
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.solve.sampled_pairs import pairs_of_blocks, part_of
from flowpairs.training.pairs.dataset import PairDataset

SEMIDISCRETE = {"method": "semidiscrete", "rel_eps": 0.0, "n": 400, "chi2": 0.3}


def job_of(directory: Path, **parts: dict[str, Any]) -> Job:
    config, surveyed = survey_plan(settings(directory, **parts))
    return Forecaster(config, surveyed).sampled.job(config)


@pytest.mark.parametrize("coupling", [{}, SEMIDISCRETE, {"n": 2000, "resample": "repeat"}])
def test_they_are_those_of_the_store(tmp_path: Path, coupling: dict[str, Any]) -> None:
    parts = {"coupling": coupling, "features": {"pca": 16}, "output": {"pairs": 4000}}
    n, blocks = coupling.get("n", 400), [0, 1] if coupling.get("n") == 2000 else [0, 2, 9]
    found = pairs_of_blocks(job_of(tmp_path / "s", **parts), blocks, 300, torch.get_num_threads(), "cpu")
    assert not list(tmp_path.iterdir())
    couple_here(settings(tmp_path / "s", **parts))
    truth = PairDataset(tmp_path / "s", fields=["x0", "x1"])[
        np.concatenate([np.arange(300) + block * n for block in blocks])
    ]
    for side, name in zip(found, ("x0", "x1"), strict=True):
        np.testing.assert_array_equal(side, truth[name].flatten(1).numpy())


def test_a_part_of_the_data_is_coupled_by_itself_and_the_whole_is_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path / "s", coupling=SEMIDISCRETE)
    data = job.inputs.target.rows.read(np.arange(1797)).reshape(1797, -1)
    held = []
    for number in range(2):
        x0, x1 = pairs_of_blocks(part_of(job, 300, number), [number], 400, 1, "cpu")
        used = {row.tobytes() for row in x1}
        held.append({row.tobytes() for row in data} & used)
        assert held[-1] == used
        assert 150 < len(used) <= 300  # of 400 pairs, most data of the part
        assert np.abs(x0.std() - 1) < 0.02
    assert len(held[0] & held[1]) < 5, "parts are disjoint, but for data that are equal"
    for side, truth in zip(
        pairs_of_blocks(part_of(job, 1797, 0), [1], 300, 1, "cpu"),
        pairs_of_blocks(job, [1], 300, 1, "cpu"),
        strict=True,
    ):
        np.testing.assert_array_equal(side, truth)


def test_what_does_not_converge_makes_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"coupling\.n=400: a block did not converge in 1 passes"):
        pairs_of_blocks(job_of(tmp_path / "s", coupling={"max_passes": 1, "tol": 1e-9}), [0], 400, 1, "cpu")

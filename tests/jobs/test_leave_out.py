"""`flowpairs evaluate RUN --leave-out`: every inner time of a chain is left out of coupling and training in turn."""

import json
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from support.couplings import couple_here
from support.runs import train_here

from flowpairs.jobs._leave_out import leave_out, plan_leave_out, print_leave_out
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, load, validate
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.metrics.time_points import mmd, wasserstein
from flowpairs.training.run.trained import read_finished

SHIFT = np.array([4.0, -2.0], np.float32)
EVALUATION = EvaluateConfig(samples=64, euler=(2,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points that move on over the days 0, 1, 2 and 4."""
    where, generator = tmp_path_factory.mktemp("chain"), np.random.default_rng(0)
    day = np.repeat([0, 1, 2, 4], 150)
    points = generator.normal(size=(600, 2)).astype(np.float32) + day[:, None].astype(np.float32) * SHIFT / 4
    np.savez(where / "cells.npz", cells=points, day=day)
    tree = {
        "data": {"path": str(where / "cells.npz"), "column": "cells", "time": "day"},
        "source": {"kind": "previous"},
        "coupling": {"method": "exact", "n": 256, "resample": "repeat"},
        "output": {"dir": str(where / "pairs"), "pairs": 1536, "payload": "full"},
        "cluster": {"actors": 0},
    }
    couple_here(validate(CoupleConfig, tree))
    training = {
        "pairs": {"dir": str(where / "pairs")},
        "model": {"kind": "mlp", "width": 64, "depth": 2},
        "train": {"steps": 300, "batch": 128, "warmup": 10, "ema": 0.95},
        "output": {"dir": str(where / "run")},
        "cluster": {"workers": 1},
    }
    return train_here(validate(TrainConfig, training))


def test_all_is_planned_before_anything_starts(run: Path) -> None:
    plan = plan_leave_out(read_finished(run), "all", seeds=2)
    assert [(left.time, left.coupling.data.leave_out) for left in plan] == [(1.0, (1.0,)), (2.0, (2.0,))]
    assert [training.train.seed for training in plan[0].trainings] == [0, 1]
    assert [training.pairs.dir for training in plan[1].trainings] == [plan[1].coupling.output.dir] * 2
    outputs = [training.output.dir for left in plan for training in left.trainings]
    assert len(set(outputs)) == 4
    assert [left.time for left in plan_leave_out(read_finished(run), "2", seeds=1)] == [2.0]
    assert not (run / "leave-out").exists()


@pytest.mark.parametrize(("which", "said"), [("4", "4 is not a time point between"), ("two", "separated by commas")])
def test_other_times_are_refused(run: Path, which: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_leave_out(read_finished(run), which, seeds=1)


def test_a_run_of_other_pairs_is_refused(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", image=np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    plain = {
        "data": {"path": str(tmp_path / "b.npz")},
        "coupling": {"method": "independent", "n": 64},
        "output": {"dir": str(tmp_path / "pairs"), "pairs": 128},
        "cluster": {"actors": 0},
    }
    couple_here(validate(CoupleConfig, plain))
    tree = load(TrainConfig, run / "config.yaml").model_dump(mode="json")
    tree |= {"pairs": {"dir": str(tmp_path / "pairs")}, "output": {"dir": str(tmp_path / "run")}}
    other = train_here(validate(TrainConfig, tree | {"train": {"steps": 2, "batch": 64, "warmup": 0}}))
    with pytest.raises(InputError, match="no chain of pairs over time"):
        plan_leave_out(read_finished(other), "all", seeds=1)


@pytest.mark.slow
def test_the_flow_passes_what_was_left_out(local_ray: None, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = leave_out(run, "2", 1, EVALUATION, trust=False)
    [row] = result["rows"]
    assert (row["time"], row["seed"]) == (2.0, 0)
    assert row["w1"] < 0.6 * row["w1_still"]
    assert row["w1"] <= row["w2"]
    assert json.loads((run / "leave-out.json").read_bytes()) == result
    pairs = load(CoupleConfig, run / "leave-out" / "2" / "pairs" / "config.yaml")
    assert pairs.data.leave_out == (2.0,)
    assert leave_out(run, "2", 1, EVALUATION, trust=False) == result  # what is done is not done again
    capsys.readouterr()
    print_leave_out(result)
    assert f"W1 {row['w1']:.3f}" in capsys.readouterr().out


def test_distances_of_samples_have_their_closed_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 120, 3, generator=generator)
    moved = x + torch.tensor([3.0, 0.0, 4.0])
    assert wasserstein(x, moved) == pytest.approx(5.0, rel=1e-5)  # of a shift, for any p
    assert wasserstein(x, moved, power=2) == pytest.approx(5.0, rel=1e-5)
    assert wasserstein(x, y, power=2) ** 2 == pytest.approx(ot.emd2([], [], ot.dist(x.numpy(), y.numpy())), rel=1e-5)
    # MMD by its sums, entry by entry.
    a, b = x.double().numpy()[:20], y.double().numpy()[:30] + 1
    middle = np.quantile(
        [np.linalg.norm(p - q) for p in a for q in b], (len(a) * len(b) - 1) // 2 / (len(a) * len(b) - 1)
    )

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([np.exp(-((p - q) ** 2).sum() / (2 * (h * middle) ** 2)) for h in (0.25, 0.5, 1, 2, 4)]))

    within = [np.mean([kernel(p, q) for i, p in enumerate(z) for j, q in enumerate(z) if i != j]) for z in (a, b)]
    square = sum(within) - 2 * np.mean([kernel(p, q) for p in a for q in b])
    assert mmd(torch.from_numpy(a).float(), torch.from_numpy(b).float()) == pytest.approx(square**0.5, rel=1e-4)
    assert mmd(x, y) < 0.1

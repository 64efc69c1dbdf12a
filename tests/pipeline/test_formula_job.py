"""A cost that is a formula, through all that reads costs: the job, its plan, its store, and the functions on arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.couplings import settings, shard_bytes
from support.ot_problems import blobs

import flowpairs as fp
from flowpairs.jobs.remote import bundle
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, check_cost
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.ot.backends import compiled
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.plan import plan
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify

pytestmark = pytest.mark.skipif(KeOps().refusal(blobs(1, 1, 1, 1.0)) is not None, reason="KeOps needs a compiler")
COST = "keops:SqNorm2(X - Y) / 2"  # compiled for two features by the battery, too


def halved(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - y).square().sum(2) / 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "points.npz"
    np.savez(path, image=np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) * [2, 1])
    return path


def job(data: Path, directory: Path, **coupling: Any) -> CoupleConfig:
    return settings(
        directory,
        data={"path": str(data), "label": None},
        coupling={"n": 100, "cost": COST, **coupling},
        output={"pairs": 200, "pairs_per_shard": 100},
    )


@pytest.fixture(scope="module")
def store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("formula") / "store"
    couple(job(data, directory))
    return directory


def test_a_store_is_recomputed_without_permission_to_import(store: Path) -> None:
    assert "cost C = keops:SqNorm2(X - Y) / 2 on the features" in format.read_index(store).convention
    assert recompute(store, 1) == []


def test_a_store_is_read_where_nothing_can_be_compiled(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("none here")

    monkeypatch.setattr(compiled, "_pykeops", absent)
    assert read_status(store).complete
    assert verify(store).faults == []
    with pytest.raises(InputError, match=r"pykeops cannot be imported \(none here\); give backend torch"):
        recompute(store, 1)


def test_the_pairs_are_those_of_the_function(store: Path, data: Path, tmp_path: Path) -> None:
    """In torch's tiles, and of arrays."""
    couple(job(data, tmp_path / "torch", backend="torch"))
    couple(job(data, tmp_path / "function", cost=f"{__name__}:halved"))
    assert shard_bytes(tmp_path / "torch") == shard_bytes(tmp_path / "function")
    given, tight = np.load(data)["image"], {"rel_eps": 0.2, "tol": 1e-5}
    ours, theirs = (fp.solve(given[:90], given[90:], cost=cost, **tight) for cost in (COST, halved))
    for side, reference in zip(ours.potentials, theirs.potentials, strict=True):
        np.testing.assert_allclose(side - side.mean(), reference - reference.mean(), atol=1e-3)
    pairs = fp.couple(given, n=100, cost=COST)
    reference = fp.couple(given, n=100, cost=halved)
    assert (pairs.data_ids == reference.data_ids).mean() > 0.95


def test_a_plan_is_made(data: Path, tmp_path: Path) -> None:
    assert plan(job(data, tmp_path / "planned")).blocks == 2
    assert not (tmp_path / "planned").exists()


def test_formulas_are_refused_before_anything_starts(data: Path, tmp_path: Path) -> None:
    for cost, says in {
        "keops:X - Y": "cost='keops:X - Y': comes to one number per feature",
        "keops:os:system": "cost='keops:os:system': cannot be read",
        "keops:Sum(X - Q)": "holds 'Q', which is none of X, Y",
    }.items():
        with pytest.raises(InputError) as refusal:
            job(data, tmp_path / "none", cost=cost)
        assert says in str(refusal.value)
    for cost, says in {
        "keops:Elem(X, 2) - Elem(Y, 0)": "needs 3 features and the points have 2",
        "keops:Log(X | Y)": "not finite for some of the points",
    }.items():
        with pytest.raises(InputError, match=says):
            couple(job(data, tmp_path / "none", cost=cost))
        assert not list(tmp_path.rglob("*.tar"))
    with pytest.raises(InputError, match="method semidiscrete searches inner products; give dot"):
        job(data, tmp_path / "none", method="semidiscrete", rel_eps=0.0)


def test_no_module_is_shipped_for_a_formula(data: Path, tmp_path: Path) -> None:
    config = job(data, tmp_path / "none")
    check_cost(config)
    assert list(bundle._own_modules(config.model_dump(mode="json"))) == []

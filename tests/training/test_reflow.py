"""Method reflow: pairs of noise and of where a trained flow leads it, held to plain loops, POT and themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from support.couplings import settings, shard_bytes
from support.processes import outside
from support.runs import MEANFLOW, MLP, train_here, write_run
from typer.testing import CliRunner

from flowpairs import PairDataset, PairStore
from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CoupleConfig, load, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.models.mlp import MLP as Network
from flowpairs.training.pairs.endpoints import read_endpoints
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.run.state import read_checkpoint, write_checkpoint

DIGITS = 1, 8, 8
CHECKPOINT = Path("checkpoints") / "step-000000010"


def reflow(directory: Path, run: Path, **parts: Any) -> CoupleConfig:
    """250 pairs in three blocks of 100, by four Euler steps in batches of 32."""
    of_flow = {"method": "reflow", "run": str(run), "n": 100, "solver": "euler", "steps": 4, "batch": 32}
    changed = {
        "coupling": of_flow | {"rel_eps": None} | parts.pop("coupling", {}),
        "output": {"pairs": 250, "pairs_per_shard": 40} | parts.pop("output", {}),
        "data": {"label": None} | parts.pop("data", {}),
    }
    return settings(directory, **changed, **parts)


def made(config: CoupleConfig) -> dict[str, np.ndarray]:
    """Make a store and read all of its pairs."""
    PairStore.of(config).couple()
    return {name: values.numpy() for name, values in PairDataset(config.output.dir)[:].items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of untrained runs on digits: plain, with labels, and one whose flow is far from straight."""
    folder = tmp_path_factory.mktemp("reflow")
    write_run(folder / "plain", MLP, DIGITS)
    write_run(folder / "labelled", MLP, DIGITS, classes=10, dropout=0.1)
    write_run(folder / "meanflow", MLP, DIGITS, **MEANFLOW)
    shutil.copytree(folder / "plain", folder / "wild")
    tree = read_checkpoint(folder / "plain" / CHECKPOINT)
    tree["ema"] = {name: 2.5 * weight for name, weight in tree["ema"].items()}
    write_checkpoint(tree, folder / "wild" / CHECKPOINT)
    return folder


@pytest.fixture(scope="module")
def reference(runs: Path) -> Path:
    """A store made in this process without a disturbance: labels, and guidance."""
    PairStore.of(reflow(runs / "reference", runs / "labelled", **GUIDED)).couple()
    return runs / "reference"


GUIDED: dict[str, Any] = {"data": {"label": "label"}, "coupling": {"guidance": 2.0}}


@torch.no_grad()
def loop(run: Path, x: np.ndarray, label: np.ndarray | None = None, guidance: float = 1.0) -> np.ndarray:
    """Four Euler steps with the averaged weights."""
    network = Network(64, 16, 1, 0 if label is None else 11)
    network.load_state_dict(torch.load(run / CHECKPOINT / STATE_FILE, weights_only=True)["ema"])
    state, hidden = torch.from_numpy(x).flatten(1), torch.full((len(x),), 10)
    for step in range(4):
        given = torch.full((len(x),), step / 4), state
        if label is None:
            v = network(*given)
        else:
            free = network(*given, hidden)
            v = free + guidance * (network(*given, torch.from_numpy(label)) - free)
        state = state + v / 4
    return state.numpy().reshape(x.shape)


def test_pairs_are_noise_and_where_a_plain_loop_leads_it(runs: Path, tmp_path: Path) -> None:
    pairs = made(reflow(tmp_path / "s", runs / "plain", source={"seed": 3}))
    x0 = noise.gaussian(3, 0, 250, 64).reshape(-1, *DIGITS)
    np.testing.assert_array_equal(pairs["x0"], x0)
    np.testing.assert_allclose(pairs["x1"], loop(runs / "plain", x0), atol=1e-5)
    np.testing.assert_array_equal(pairs["data_id"], np.arange(250))
    index = read_index(tmp_path / "s")
    assert (index.method, index.num_classes, index.payload, index.pairs) == ("reflow", 0, "full", 250)
    row = read_blocks(tmp_path / "s")[0]
    flat = pairs["x1"][:100].reshape(100, -1) - load_digits().data.mean(0) / 8 + 1
    assert row["cost_coupled"] == pytest.approx(np.square(flat - x0[:100].reshape(100, -1)).sum(1).mean(), rel=1e-4)
    assert row["evaluations"] == 4


def test_labels_are_as_frequent_as_in_the_data_and_the_flow_is_told_them(reference: Path, runs: Path) -> None:
    pairs = {name: values.numpy() for name, values in PairDataset(reference)[:].items()}
    u = noise.uniforms(0, noise.Stream.LABELS, 0, 250)
    np.testing.assert_array_equal(pairs["label"], load_digits().target[(u * 1797).astype(int)])
    expected = loop(runs / "labelled", pairs["x0"], pairs["label"], 2.0)
    np.testing.assert_allclose(pairs["x1"], expected, atol=1e-5)
    assert np.abs(expected - loop(runs / "labelled", pairs["x0"], pairs["label"])).max() > 1e-3


def test_the_same_bytes_on_actors_and_for_fewer_pairs(
    reference: Path, runs: Path, tmp_path: Path, local_ray: None
) -> None:
    for actors in (1, 2):
        config = reflow(tmp_path / str(actors), runs / "labelled", **GUIDED, cluster={"actors": actors})
        PairStore.of(config).couple()
        assert shard_bytes(tmp_path / str(actors)) == shard_bytes(reference)
        assert (tmp_path / str(actors) / "index.json").read_bytes() == (reference / "index.json").read_bytes()
    for pairs in (200, 250):  # a store that grows
        PairStore.of(reflow(tmp_path / "grown", runs / "labelled", **GUIDED, output={"pairs": pairs})).couple(
            extend=True
        )
    assert shard_bytes(tmp_path / "grown") == shard_bytes(reference)
    fewer = made(reflow(tmp_path / "fewer", runs / "labelled", **GUIDED, output={"pairs": 145, "payload": "seeded"}))
    for name, values in PairDataset(reference)[:145].items():
        np.testing.assert_array_equal(fewer[name], values.numpy())


@pytest.mark.parametrize("solver", [{"solver": "dopri5", "steps": None, "rtol": 1e-3, "atol": 1e-3}, {"n": 70}])
def test_cores_change_no_bit(solver: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    """Also of dopri5, whose steps suit a batch, and of a recoupled block in principal directions."""
    given = {"coupling": solver | {"recouple": "n" in solver}, "features": {"pca": 8 if "n" in solver else None}}
    for cores in (1, 3):
        config = reflow(tmp_path / str(cores), runs / "wild", **given, cluster={"cpus_per_actor": cores})
        PairStore.of(config).couple()
    assert shard_bytes(tmp_path / "1") == shard_bytes(tmp_path / "3")


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on_to_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    many = {"output": {"pairs": 3_000, "pairs_per_shard": 50}}
    PairStore.of(reflow(tmp_path / "whole", runs / "labelled", **GUIDED, **many)).couple()
    directory, file = tmp_path / "s", tmp_path / "couple.yaml"
    config = reflow(directory, runs / "labelled", **GUIDED, **many)
    file.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    command = [sys.executable, "-m", "flowpairs.jobs.couple", str(file)]
    with subprocess.Popen(command, env=outside(), start_new_session=True, stderr=subprocess.DEVNULL) as driver:
        while len(list(directory.glob("shards/*.json"))) < 5:
            assert driver.poll() is None, "the job ended before it was killed"
            time.sleep(0.002)
        os.killpg(driver.pid, signal.SIGKILL)
    assert not (directory / "index.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in directory.glob("shards/pairs-00000[0123].tar")}
    PairStore.of(config).couple()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "two finished blocks were computed again"
    assert shard_bytes(directory) == shard_bytes(tmp_path / "whole")
    assert (directory / "index.json").read_bytes() == (tmp_path / "whole" / "index.json").read_bytes()


def test_recoupled_pairs_are_those_of_a_direct_solve_and_cost_less(runs: Path, tmp_path: Path) -> None:
    """The plan is POT's, in float64; partners are drawn from it by the inverse distribution function."""
    plain = made(reflow(tmp_path / "plain", runs / "wild"))
    pairs = made(reflow(tmp_path / "anew", runs / "wild", coupling={"recouple": True, "rel_eps": 0.1, "tol": 1e-8}))
    rows = read_blocks(tmp_path / "anew")
    u, mean = noise.uniforms(0, noise.Stream.DRAW, 0, 250), load_digits().data.mean(0) / 8 - 1
    for block, row in enumerate(rows[:2]):
        part = slice(100 * block, 100 * block + 100)
        x0, x1 = (plain[side][part].reshape(100, -1).astype(np.float64) for side in ("x0", "x1"))
        x1 -= mean
        plan = ot.sinkhorn(
            np.full(100, 0.01),
            np.full(100, 0.01),
            -x0 @ x1.T,
            row["eps"],
            "sinkhorn_log",
            numItermax=5000,
            stopThr=1e-9,
        )
        squared = ot.dist(x0, x1)
        assert row["cost_coupled"] == pytest.approx((plan * squared).sum(), rel=1e-5)
        assert row["cost_flow"] == pytest.approx(np.diag(squared).mean(), rel=1e-5)
        least = squared[linear_sum_assignment(squared)].mean()
        assert row["cost_flow"] - row["cost_coupled"] > 0.7 * (row["cost_flow"] - least) > 10
        sums = plan.cumsum(1) / plan.sum(1, keepdims=True)
        drawn = np.array([np.searchsorted(line, value) for line, value in zip(sums, u[part], strict=True)])
        chosen = pairs["data_id"][part] - 100 * block
        assert (chosen == drawn).mean() > 0.98
        np.testing.assert_array_equal(pairs["x0"][part], plain["x0"][part])
        np.testing.assert_array_equal(pairs["x1"][part], plain["x1"][part][chosen])
    before, after = (np.square(each["x0"] - each["x1"]).sum((1, 2, 3)).mean() for each in (plain, pairs))
    assert after < before - 10


def test_two_rounds_of_training_on_digits(tmp_path: Path) -> None:
    """A run, pairs of its flow, a run on those: its samples are compared with the data, not with samples."""
    shape = {"model": {"kind": "mlp", "width": 32, "depth": 1, "conditional": True}, "pairs": {"dir": ""}}
    train = {"steps": 30, "batch": 64, "warmup": 5, "lr": 0.01, "ema": 0.8, "log_every": 10, "label_dropout": 0.1}
    stores = [tmp_path / name for name in ("independent", "reflow")]
    PairStore.of(settings(stores[0], coupling={"method": "independent", "rel_eps": None})).couple()
    for number, store in enumerate(stores):
        directory = {"output": {"dir": str(tmp_path / f"run{number}"), "trackers": []}}
        run = train_here(validate(TrainConfig, shape | {"train": train, "pairs": {"dir": str(store)}} | directory))
        if number == 0:
            config = reflow(stores[1], run, data={"label": "label"}, output={"pairs": 200})
            assert made(config)["label"].max() < 10
    end = read_endpoints(str(stores[1]), read_index(stores[1]), EvaluateConfig()).end
    images, labels = load_digits(return_X_y=True)
    np.testing.assert_allclose(end.x.flatten(1), images / 8 - 1, atol=1e-6)
    assert end.label is not None
    np.testing.assert_array_equal(end.label, labels)
    shutil.rmtree(stores[1] / "rows")
    with pytest.raises(InputError, match=r"rows: not the data that the flow learnt.*give data=PATH"):
        read_endpoints(str(stores[1]), read_index(stores[1]), EvaluateConfig())


def test_status_verify_plan_and_report(reference: Path, runs: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(reference, tmp_path / "s"))
    store, config = PairStore(directory), load(CoupleConfig, directory / "config.yaml")
    assert (store.status().blocks, store.status().complete) == (3, True)
    found = store.verify(deep=3)
    assert (found.faults, found.data_used, found.data) == ([], 250, None)
    assert store.report().is_file()
    with pytest.raises(InputError, match=r"method='reflow': samples of a network, whose time is not forecast"):
        store.plan()
    with pytest.raises(InputError, match="run `flowpairs couple`"):
        couple(reflow(tmp_path / "new", runs / "plain"))
    dry = CliRunner().invoke(application(), ["couple", str(directory / "config.yaml"), "--dry-run"])
    assert dry.exit_code == 0
    assert "reflow" in dry.stdout
    assert config.coupling.run_fingerprint is not None
    shutil.copytree(runs / "labelled", tmp_path / "other")
    tree = read_checkpoint(runs / "labelled" / CHECKPOINT)
    tree["ema"] = {name: weight + 1e-3 for name, weight in tree["ema"].items()}
    write_checkpoint(tree, tmp_path / "other" / CHECKPOINT)
    with pytest.raises(InputError, match=r"holds pairs of another config; coupling.run_fingerprint"):
        PairStore.of(reflow(directory, tmp_path / "other", **GUIDED)).couple()
    text = (directory / "config.yaml").read_text().replace(str(runs / "labelled"), str(tmp_path / "other"))
    (directory / "config.yaml").write_text(text)
    assert "coupling.run_fingerprint" in store.verify(deep=1).faults[0]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"coupling": {"run": None}}, "method reflow needs run"),
        ({"coupling": {"run": "nowhere"}}, "run 'nowhere': not a training run"),
        ({"coupling": {"steps": None}}, "solver=euler: takes equal steps"),
        ({"coupling": {"solver": "dopri5"}}, "steps=4: dopri5 chooses its own"),
        ({"coupling": {"solver": "jump"}}, "coupling.solver=jump: by the average velocity"),
        ({"coupling": {"solver": "sde"}}, "coupling.solver='sde'"),
        ({"coupling": {"rel_eps": 0.1}}, "rel_eps belong to method sinkhorn, not to reflow.*recouple=true"),
        ({"coupling": {"cost": "sqeuclidean"}}, "cost does not belong to method reflow, unless"),
        ({"coupling": {"resample": "repeat"}}, "resample does not belong to method reflow"),
        ({"coupling": {"guidance": 2.0}}, "coupling.guidance=2: the run hid no labels"),
        ({"coupling": {"method": "independent"}}, "run and solver and steps and batch belong to method reflow"),
        ({"coupling": {"recouple": True, "relax": {"target": 1.0}}}, "relax belongs to method sinkhorn"),
        ({"output": {"payload": "ids"}}, "output.payload=ids: x1 of method reflow is a sample"),
        ({"features": {"pca": 8}}, "features.pca: pairs of method reflow have no cost"),
        ({"sampling": {"draw": "balanced"}}, "sampling.draw=balanced: pairs of method reflow are not drawn"),
        ({"sampling": {"direction": "backward"}}, "sampling.direction=backward: method reflow goes from noise"),
        ({"data": {"flips": True}}, "data.flips: no datum takes part"),
        ({"source": {"kind": "data", "path": "digits"}}, "coupling.method=reflow: takes noise as its source"),
        ({"cluster": {"actors": 2, "actors_per_block": 2}}, "method reflow works on one actor a block"),
    ],
)
def test_what_cannot_be_is_one_sentence(parts: dict[str, Any], sentence: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        PairStore.of(reflow(tmp_path / "s", runs / "plain", **parts)).couple()
    assert not (tmp_path / "s").exists()


def test_runs_that_cannot_make_the_pairs_are_refused(runs: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "plane.npz", image=np.zeros((30, 2), np.float32))
    np.savez(tmp_path / "many.npz", image=np.zeros((30, *DIGITS), np.float32), label=np.arange(30))
    write_run(tmp_path / "two-sided", MLP, DIGITS, two_sided=True)
    write_run(tmp_path / "wild", MLP, DIGITS)
    tree = read_checkpoint(tmp_path / "wild" / CHECKPOINT)
    tree["ema"] = {name: weight * float("nan") for name, weight in tree["ema"].items()}
    write_checkpoint(tree, tmp_path / "wild" / CHECKPOINT)
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (runs / "plain", {"data": {"path": str(tmp_path / "plane.npz")}}, r"leads to data of shape \[1, 8, 8\]"),
        (runs / "labelled", {"data": {"path": str(tmp_path / "many.npz")}}, "is told labels, .* give data.label"),
        (runs / "labelled", {"data": {"path": str(tmp_path / "many.npz"), "label": "label"}}, "knows 10 classes"),
        (tmp_path / "two-sided", {}, "leads data to data"),
    ]
    for run, parts, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            PairStore.of(reflow(tmp_path / "s", run, **parts)).couple()
        assert not (tmp_path / "s").exists()
    with pytest.raises(JobError, match="block 0: 100 of 100 samples are not finite"):
        PairStore.of(reflow(tmp_path / "s", tmp_path / "wild")).couple()


def test_meanflow_jumps(runs: Path, tmp_path: Path) -> None:
    pairs = made(reflow(tmp_path / "s", runs / "meanflow", coupling={"solver": "jump", "steps": 2}))
    assert np.abs(pairs["x1"] - pairs["x0"]).max() > 0.01


def test_a_network_of_somebodys_own_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, shape, num_classes):\n"
    module += (
        "        super().__init__(2, 2)\n    def forward(self, t, x, label=None):\n        return super().forward(x)\n"
    )
    (tmp_path / "nets_of_reflow.py").write_text(module)
    np.savez(tmp_path / "plane.npz", image=np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32))
    monkeypatch.syspath_prepend(tmp_path)
    write_run(tmp_path / "run", {"kind": "nets_of_reflow:Net"}, (2,))
    monkeypatch.delitem(sys.modules, "nets_of_reflow")
    store = PairStore.of(reflow(tmp_path / "s", tmp_path / "run", data={"path": str(tmp_path / "plane.npz")}))
    with pytest.raises(InputError, match=r"its network is nets_of_reflow:Net, code of whoever.*--trust"):
        store.couple()
    assert not (tmp_path / "s").exists()
    store.couple(trust=True)
    monkeypatch.delitem(sys.modules, "nets_of_reflow")
    with pytest.raises(InputError, match="give --trust if you trust it"):
        store.verify(deep=1)
    assert "nets_of_reflow" not in sys.modules
    assert store.verify(deep=1, trust=True).faults == []

"""Ray Train for real: two workers, a finished run's files, and kills that leave no trace in the weights."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
import torch
from support.processes import actors, outside
from support.runs import wait_for_checkpoint, weights
from support.stores import write_store

from flowpairs.jobs.status import status
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import load, validate
from flowpairs.training.config import EvaluateConfig, SampleConfig, TrainClusterConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.status import read_run_status
from flowpairs.training.run.workers import WorkerShape, worker_shape
from flowpairs.training.sample import sample
from flowpairs.training.train import Losses, train

STEPS = 600


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs (x, 2 x + 1) in the plane; every datum occurs twice."""
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    store = tmp_path_factory.mktemp("trainer") / "store"
    ids = np.arange(600) % 300
    write_store(store, x0, (2 * x0 + 1)[ids], ids=ids, shard_counts=[250, 250, 100])
    return store


def config(
    store: Path, name: str, workers: int | tuple[int, int], steps: int = STEPS, **options: bool | float | str
) -> TrainConfig:
    plain = {
        "pairs": {"dir": str(store)},
        "model": {"kind": "mlp", "width": 32, "depth": 1},
        "train": {"steps": steps, "batch": 64, "warmup": 10, "ema": 0.9, "log_every": 10, "checkpoint_every": 40}
        | options,
        "output": {"dir": str(store.parent / name)},
        "cluster": {"workers": workers},
    }
    return validate(TrainConfig, plain)


@pytest.fixture(scope="module")
def undisturbed(store: Path, local_ray: None) -> Path:
    train(config(store, "undisturbed", workers=2))
    return store.parent / "undisturbed"


def assert_same_end(run: Path, other: Path) -> None:
    """Equal step counts, logs at equal steps, and losses and weights up to the order of float sums."""
    lines, expected = read_metrics(run / "metrics.jsonl"), read_metrics(other / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(10, STEPS + 1, 10))
    np.testing.assert_allclose([line["loss"] for line in lines], [line["loss"] for line in expected], rtol=1e-3)
    ours, theirs = weights(run), weights(other)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5)


def test_a_finished_run_leaves_its_files(undisturbed: Path, store: Path) -> None:
    summary = json.loads((undisturbed / "train.json").read_text())
    lines = read_metrics(undisturbed / "metrics.jsonl")
    assert summary["steps"] == STEPS
    assert summary["workers"] == 2
    assert summary["pairs_dir"] == str(store)
    assert (summary["shape"], summary["num_classes"]) == ([2], 0)  # so that samples need no pairs
    assert summary["loss"] == lines[-1]["loss"] < lines[0]["loss"]
    assert list((undisturbed / "tensorboard").glob("events.*"))
    assert load(TrainConfig, undisturbed / "config.yaml").pairs.fingerprint


def test_the_status_of_a_finished_run(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status(str(undisturbed), json=True)
    told, summary = json.loads(capsys.readouterr().out), json.loads((undisturbed / "train.json").read_text())
    assert (told["complete"], told["step"], told["steps"], told["seconds_left"]) == (True, STEPS, STEPS, 0.0)
    assert {key: told[key] for key in ("loss", "seconds", "checkpoint")} == {
        key: summary[key] for key in ("loss", "seconds", "checkpoint")
    }
    status(str(undisturbed))
    assert f"checkpoints/step-{STEPS:09d}" in capsys.readouterr().out


def test_the_status_in_the_middle_names_the_checkpoint_to_go_on_from(undisturbed: Path, tmp_path: Path) -> None:
    """It died while it wrote a line and while a checkpoint, which Ray Train had not noted, was being copied."""
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "train.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:20]) + lines[20][:30])
    (run / "checkpoints" / f"step-{STEPS + 40:09d}").mkdir()
    found, last = read_run_status(run), json.loads(lines[19])
    assert not found.complete
    assert (found.step, found.loss, found.data_wait) == (200, last["loss"], last["data_wait"])
    assert found.seconds_left == pytest.approx((STEPS - 200) * 64 / last["samples_per_s"])
    assert found.checkpoint == f"checkpoints/step-{STEPS:09d}"
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run / "checkpoints")
    assert (read_run_status(run).step, read_run_status(run).seconds_left, read_run_status(run).checkpoint) == (
        0,
        None,
        None,
    )


def test_a_finished_run_is_not_done_again_and_not_overwritten(undisturbed: Path, store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert train(config(store, "undisturbed", workers=2)) == json.loads((undisturbed / "train.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
    with pytest.raises(InputError, match=rf"train\.steps={STEPS - 1}: the run in .* goes to {STEPS} steps"):
        train(config(store, "undisturbed", workers=2, steps=STEPS - 1))


@pytest.mark.slow
def test_a_run_grows_to_the_weights_of_one_that_was_long_from_the_start(
    undisturbed: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured at its first end keeps the number of steps that it is of."""
    run = store.parent / "grown"
    train(config(store, "grown", workers=2, steps=STEPS // 2))
    (run / "evaluation.json").write_text("{}")
    assert train(config(store, "grown", workers=2))["steps"] == STEPS
    assert f"goes on from step {STEPS // 2} to {STEPS}; evaluation.json of then" in capsys.readouterr().err
    assert_same_end(run, undisturbed)
    assert (run / f"evaluation-{STEPS // 2:09d}.json").is_file()
    assert not (run / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_starts_from_the_weights_of_another(undisturbed: Path, store: Path) -> None:
    """With next to no learning rate it ends where it began."""
    train(config(store, "onwards", workers=1, steps=4, warmup=1, lr=1e-12, init=str(undisturbed)))
    ended, began = weights(store.parent / "onwards"), weights(undisturbed)
    assert all(torch.allclose(ended[name], value, atol=1e-6) for name, value in began.items())
    recorded = load(TrainConfig, store.parent / "onwards" / "config.yaml").train
    assert recorded.init == str(undisturbed)
    assert len(recorded.init_fingerprint or "") == 64


def test_a_full_disk_ends_a_run_at_once(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(JobError, match=r"a checkpoint cannot be written \(\[Errno 28\] No space left on device\)"):
        Losses(str(tmp_path)).after_exception(None, {0: full})
    Losses(str(tmp_path)).after_exception(
        None, {0: ConnectionError("a worker is gone")}
    )  # which another start may mend


def test_an_evaluation_that_fails_at_one_solver_keeps_the_others(undisturbed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    file = run / json.loads((run / "train.json").read_text())["checkpoint"] / STATE_FILE
    state = torch.load(file, weights_only=True)
    for values in state["ema"].values():  # a flow that runs away
        values.mul_(1000)
    torch.save(state, file)
    with pytest.raises(JobError, match=r"dopri5: dopri5: no step is small enough .* in evaluation.json$"):
        evaluate(run, EvaluateConfig(samples=64, euler=(2,)))
    report = json.loads((run / "evaluation.json").read_text())
    assert [(row["solver"], row["nfe"]) for row in report["frechet"]] == [("euler", 2)]
    assert [row["solver"] for row in report["failed"]] == ["dopri5"]


FOUR = """
import sys
import ray
from flowpairs.training.config import TrainConfig
from flowpairs.training.train import train

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
train(TrainConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_one_two_and_four_workers_give_the_same_loss_curve(undisturbed: Path, store: Path) -> None:
    """For the same global batch, to float tolerance; four need a Ray that counts more cores than the session's.

    By `make test` the runs of the killed driver and of the dead node go on with one worker, and both are held to the
    losses and weights of two.
    """
    train(config(store, "one", workers=1))
    command = [sys.executable, "-c", FOUR, config(store, "four", workers=4).model_dump_json()]
    subprocess.run(command, env=outside(), check=True, timeout=300, stderr=subprocess.DEVNULL)
    for name, workers in (("one", 1), ("four", 4)):
        assert json.loads((store.parent / name / "train.json").read_bytes())["workers"] == workers
        assert_same_end(store.parent / name, undisturbed)


@pytest.mark.slow
def test_a_run_goes_on_in_this_process_and_back_on_ray(undisturbed: Path, store: Path) -> None:
    """Each goes on from the last checkpoint of the other, and two checkpoints are left."""
    run = store.parent / "to-and-fro"
    for steps, workers in ((STEPS // 3, 0), (2 * STEPS // 3, 1), (STEPS, 0)):
        assert train(config(store, "to-and-fro", workers=workers, steps=steps))["workers"] == workers
        assert len(list((run / "checkpoints").glob("step-*"))) == 2
    assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_killed_driver_resumes_with_another_number_of_workers_and_compiled(undisturbed: Path, store: Path) -> None:
    """What changes nothing but rounding may be another when a run goes on; compiled where there is a compiler."""
    settings = config(store, "killed-driver", workers=2)
    run = Path(settings.output.dir)
    code = "import sys; from flowpairs.training.config import TrainConfig; from flowpairs.training.train import train; "
    code += "train(TrainConfig.model_validate_json(sys.argv[1]))"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with subprocess.Popen([sys.executable, "-c", code, settings.model_dump_json()], env=environment) as driver:
        wait_for_checkpoint(run)
        driver.send_signal(signal.SIGKILL)
    assert not (run / "train.json").exists(), "the run was over before the kill"
    found = read_run_status(run)
    assert not found.complete
    assert 40 <= found.step <= read_metrics(run / "metrics.jsonl")[-1]["step"]  # its workers live a little longer
    assert found.steps == STEPS
    assert found.seconds_left == pytest.approx((STEPS - found.step) * 64 / found.pairs_per_second)
    train(config(store, "killed-driver", workers=1, compile=shutil.which("g++") is not None, accumulate=2))
    assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_killed_worker_is_replaced(undisturbed: Path, store: Path) -> None:
    settings = config(store, "killed-worker", workers=2)
    run = Path(settings.output.dir)
    finished_before_the_kill = []

    def killer() -> None:
        wait_for_checkpoint(run)
        os.kill(actors("RayTrainWorker")[0], signal.SIGKILL)
        finished_before_the_kill.append((run / "train.json").exists())

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    train(settings)
    thread.join()
    assert finished_before_the_kill == [False]
    assert_same_end(run, undisturbed)


# A run on two raylets of one core, one of which dies with its worker after the first checkpoint.
BEREAVED = """
import os, signal, sys, threading
sys.path[:0] = ["tests", "tests/training"]
from pathlib import Path
from support.processes import two_raylets
from support.runs import wait_for_checkpoint, weights
from flowpairs.training.config import TrainConfig
from flowpairs.training.train import train

_, other = two_raylets()
config, over = TrainConfig.model_validate_json(sys.argv[1]), []

def kill_node():
    run = Path(config.output.dir)
    wait_for_checkpoint(run)
    os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    over.append((run / "train.json").exists())

threading.Thread(target=kill_node, daemon=True).start()
train(config)
assert over == [False], over
os._exit(0)  # the test cluster's own shutdown minds that one of its processes is gone
"""


@pytest.mark.slow
def test_an_elastic_run_goes_on_with_fewer_workers_when_a_node_dies(undisturbed: Path, store: Path) -> None:
    settings = config(store, "elastic", workers=(1, 2))
    command = [sys.executable, "-c", BEREAVED, settings.model_dump_json()]
    subprocess.run(command, env=outside(), check=True, timeout=240, stderr=subprocess.DEVNULL)
    assert json.loads((store.parent / "elastic" / "train.json").read_bytes())["workers"] == [1, 2]
    assert_same_end(store.parent / "elastic", undisturbed)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same_and_is_saved_as_any_other(undisturbed: Path, store: Path) -> None:
    """From its start, by two workers, whose wrapper is compiled; `make test` has a single one go on compiled."""
    train(config(store, "compiled", workers=2, compile=True, accumulate=2))
    assert_same_end(store.parent / "compiled", undisturbed)


def test_an_evaluation_is_the_same_by_any_number_of_tasks(undisturbed: Path, tmp_path: Path) -> None:
    """Up to rounding, since two tasks have one thread each; in seven batches, the last one short.

    0: in this process.
    """
    reports, arrays = [], []
    for workers in (1, 2, 0):
        run = shutil.copytree(undisturbed, tmp_path / str(workers))
        asked = EvaluateConfig(samples=200, euler=(4,), batch=32, workers=workers)
        reports.append(evaluate(run, asked))
        arrays.append(np.load(run / "samples.npz"))
    for report, found in zip(reports[1:], arrays[1:], strict=True):
        for one, two in zip(reports[0]["frechet"], report["frechet"], strict=True):
            assert (one["solver"], one["nfe"]) == (two["solver"], two["nfe"])
            assert one["fd"] == pytest.approx(two["fd"], rel=1e-4)
        assert reports[0]["curvature"] == pytest.approx(report["curvature"], rel=1e-4)
        for name in ("euler4", "dopri5", "trajectories"):
            np.testing.assert_allclose(arrays[0][name], found[name], atol=1e-4)
    named = {"data": None, "split": None, "held_out": False, "mirrored": None, "count": 300}
    found = reports[0]["reference"]
    assert {key: found[key] for key in named} == named
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    assert found["sha256"] == hashlib.sha256((2 * x0 + 1)[:300].tobytes()).hexdigest()
    with pytest.raises(InputError, match=r"^workers=3, .* only 2 such workers fit"):
        evaluate(undisturbed, EvaluateConfig(workers=3))


def test_evaluation_is_what_a_plain_loop_computes(undisturbed: Path, store: Path) -> None:
    report = evaluate(undisturbed, EvaluateConfig(samples=300, euler=(4,), batch=128, rtol=1e-6, atol=1e-6))
    assert report == json.loads((undisturbed / "evaluation.json").read_text())
    assert [row["solver"] for row in report["frechet"]] == ["euler", "dopri5"]
    samples = np.load(undisturbed / "samples.npz")
    assert sorted(samples) == ["dopri5", "euler4", "predictions", "real", "trajectories"]
    assert samples["trajectories"].shape == (64, 33, 2)

    from flowpairs.training.models.mlp import MLP

    model = MLP(2, 32, 1, 0)
    model.load_state_dict(weights(undisturbed))
    x = start = torch.from_numpy(noise.gaussian(0, 0, 300, 2, noise.Stream.STARTS))
    with torch.no_grad():
        for step in range(4):
            x = x + model(torch.full((300,), step / 4), x) / 4
    np.testing.assert_allclose(samples["euler4"], x[:64].numpy(), atol=1e-5)
    drawn = store.parent / "drawn.npz"  # by `flowpairs sample`, from the same seed
    sample(undisturbed, SampleConfig(samples=300, solver="euler", steps=4), drawn)
    np.testing.assert_allclose(np.load(drawn)["samples"], x.numpy(), atol=1e-5)
    np.testing.assert_allclose(samples["trajectories"][:, 0], start[:64].numpy())
    np.testing.assert_allclose(samples["trajectories"][:, -1], samples["dopri5"], atol=1e-3)

    # Two features, so the principal components turn the plane: the distance is that of the points themselves.
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    real = (2 * x0 + 1)[:300].astype(np.float64)
    a, b = np.cov(real.T), np.cov(x.double().numpy().T)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    distance = np.square(real.mean(0) - x.double().numpy().mean(0)).sum() + np.trace(a + b) - 2 * roots
    assert report["frechet"][0]["fd"] == pytest.approx(distance, rel=1e-3)
    np.testing.assert_array_equal(samples["real"], real[:64].astype(np.float32))


@pytest.mark.usefixtures("local_ray")
def test_workers_share_the_cores_and_too_many_are_refused() -> None:
    """On one node of two cores and no GPU."""
    assert worker_shape(TrainClusterConfig()) == WorkerShape(workers=1, cpus=2, gpus=0)
    assert worker_shape(TrainClusterConfig(workers=2)) == WorkerShape(workers=2, cpus=1, gpus=0)
    with pytest.raises(InputError, match=r"cluster.workers=3, cluster.gpus=auto: only 2 such workers fit"):
        worker_shape(TrainClusterConfig(workers=3))
    with pytest.raises(InputError, match=r"cluster.gpus=1: only 0 such workers fit"):
        worker_shape(TrainClusterConfig(gpus=1))


def test_evaluating_what_is_no_finished_run_is_refused(store: Path) -> None:
    for text in (None, "coupling: {n: 4}\n"):  # as that of a coupling job
        if text is not None:
            (store / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="not a training run"):
            evaluate(store, EvaluateConfig())


def test_a_fault_of_the_input_ends_the_run_at_once(store: Path, local_ray: None) -> None:
    """Not after Ray Train has started the workers again: that ends in an error of the workers."""
    shutil.copytree(store, store.parent / "damaged")
    shard = store.parent / "damaged" / "shards" / "pairs-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(InputError, match=r"pairs-000001\.tar.*couple again") as caught:
        train(config(store.parent / "damaged", "of-damaged", workers=2))
    assert isinstance(caught.value.__cause__, ray.train.ControllerError)

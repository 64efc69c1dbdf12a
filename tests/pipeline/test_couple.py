"""The coupling job on a real Ray: the same bytes whoever computes them, and nothing lost when something dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from sklearn.datasets import load_digits
from support.couplings import settings, shard_bytes
from support.processes import actors

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.cluster.scheduler import schedule
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run in this process."""
    directory = tmp_path_factory.mktemp("couple") / "reference"
    couple(settings(directory))
    return directory


def test_the_store_is_what_was_asked_for(reference: Path) -> None:
    index = format.read_index(reference)
    assert (index.pairs, index.shape, index.num_classes, index.method) == (1500, (1, 8, 8), 10, "sinkhorn")
    assert verify(reference).faults == []
    blocks = read_blocks(reference)
    assert [row["block"] for row in blocks] == [0, 1, 2, 3]
    for row in blocks:
        assert row["converged"]
        assert max(row["source_error"], row["target_error"]) < 1e-3
        assert row["cost_coupled"] < row["cost_independent"]
    status = read_status(reference)
    assert (status.complete, status.blocks, status.pairs, status.seconds_left) == (True, 4, 1500, 0.0)


def test_two_actors_write_the_bytes_of_this_process(reference: Path, tmp_path: Path, local_ray: None) -> None:
    """Also where the same data are read from a file."""
    images, labels = load_digits(return_X_y=True)
    path = tmp_path / "digits.npz"
    np.savez(path, image=(images / 8 - 1).astype(np.float32).reshape(-1, 1, 8, 8), label=labels)
    couple(settings(tmp_path / "two", data={"path": str(path)}, cluster={"actors": 2}))
    assert shard_bytes(tmp_path / "two") == shard_bytes(reference)
    assert (tmp_path / "two" / "index.json").read_bytes() == (reference / "index.json").read_bytes()


def test_a_complete_store_is_left_alone(reference: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    couple(settings(reference))
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*")} == before


def test_only_lost_blocks_are_computed_again(reference: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(reference, tmp_path / "mended"))
    kept = (directory / "shards" / "pairs-000000.tar").stat().st_mtime_ns
    (directory / "shards" / "pairs-000004.tar").unlink()
    (directory / "shards" / ".pairs-000009.tar.1.tmp").write_bytes(b"half-written")
    couple(settings(directory))
    assert shard_bytes(directory) == shard_bytes(reference)
    assert (directory / "shards" / "pairs-000000.tar").stat().st_mtime_ns == kept
    assert not list((directory / "shards").glob(".*"))


def test_a_killed_actor_is_replaced(reference: Path, tmp_path: Path, local_ray: None) -> None:
    """When the first block is in, an actor process gets a SIGKILL; its block is done again by a new one."""
    killed: list[int] = []

    def kill_once(_: dict[str, Any]) -> None:
        if not killed:
            killed.append(actors("SolverActor")[0])
            os.kill(killed[0], signal.SIGKILL)

    directory = tmp_path / "actor-killed"
    couple(settings(directory, cluster={"actors": 2}), on_block=kill_once)
    assert killed
    assert shard_bytes(directory) == shard_bytes(reference)


def pool_of(size: int, start: Callable[[], Any]) -> Any:
    """Actors without helpers."""
    return SimpleNamespace(
        size=size, ahead=False, start=start, stop=ray.kill, watch=lambda actor: None, fits=lambda actor: True
    )


def test_a_block_that_kills_every_actor_ends_the_job(local_ray: None) -> None:
    class Mortal:
        def ready(self) -> None:
            pass

        def solve(self, block: int, ahead: int | None) -> None:
            if block == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def write(self) -> dict[str, Any]:
            return {}

    with pytest.raises(JobError, match="block 1 killed 3 actors"):
        list(schedule(pool_of(1, ray.remote(Mortal).remote), [0, 1, 2]))


def test_a_block_is_written_while_the_next_one_is_solved(local_ray: None) -> None:
    """Writing a block waits for the next to be begun, which would be for ever if they took turns."""

    class Patient:
        def __init__(self) -> None:
            self.begun, self.written = [threading.Event() for _ in range(3)], 0

        def ready(self) -> None:
            pass

        def solve(self, block: int, ahead: int | None) -> None:
            self.begun[block].set()

        @ray.method(concurrency_group="write")
        def write(self) -> dict[str, Any]:
            block, self.written = self.written, self.written + 1
            assert block == 2 or self.begun[block + 1].wait(30)
            return {"block": block}

    actor = ray.remote(concurrency_groups={"write": 1})(Patient)
    pool = pool_of(1, actor.remote)
    assert [row["block"] for row in schedule(pool, [0, 1, 2])] == [0, 1, 2]


def test_work_goes_to_actors_that_answer(local_ray: None) -> None:
    """One of two can never be placed; the other does everything, and the job does not wait for the first."""

    class Willing:
        def ready(self) -> None:
            pass

        def solve(self, block: int, ahead: int | None) -> None:
            self.block = block

        def write(self) -> dict[str, Any]:
            return {"block": self.block}

    sizes = iter([64, 0])
    pool = pool_of(2, lambda: ray.remote(num_cpus=next(sizes))(Willing).remote())
    assert sorted(row["block"] for row in schedule(pool, range(5))) == [0, 1, 2, 3, 4]


def test_an_actor_that_dies_at_its_start_ends_the_job(local_ray: None) -> None:
    class Stillborn:
        def ready(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    pool = pool_of(1, lambda: ray.remote(num_cpus=0)(Stillborn).remote())
    with pytest.raises(JobError, match="3 actors died while they started"):
        list(schedule(pool, [0]))


def test_a_refusal_at_an_actors_start_is_raised_as_itself(local_ray: None) -> None:
    class Refusing:
        def ready(self) -> None:
            raise InputError("no GPU here")

    pool = pool_of(1, lambda: ray.remote(num_cpus=0)(Refusing).remote())
    with pytest.raises(InputError, match="no GPU here"):
        list(schedule(pool, [0]))


def test_a_store_grows_by_blocks_and_keeps_its_bytes(reference: Path, tmp_path: Path) -> None:
    directory = tmp_path / "s"
    couple(settings(directory, output={"pairs": 800}))
    first = {path: path.stat().st_mtime_ns for path in (directory / "shards").iterdir()}
    index = (directory / "index.json").read_bytes()
    with pytest.raises(InputError, match=r"output.pairs=1500: .* has 800; `flowpairs couple --extend` adds"):
        couple(settings(directory))
    assert (directory / "index.json").read_bytes() == index
    assert couple(settings(directory), extend=True).pairs == 1500
    assert shard_bytes(directory) == shard_bytes(reference)
    assert (directory / "index.json").read_bytes() == (reference / "index.json").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in first} == first
    (directory / "index.json").write_bytes(index)  # it was killed between its new config and the old index
    assert couple(settings(directory)).pairs == 1500
    assert verify(directory).faults == []
    with pytest.raises(InputError, match=r"only a store of whole blocks of coupling\.n=400 pairs can grow"):
        couple(settings(directory, output={"pairs": 2000}), extend=True)
    with pytest.raises(InputError, match=r"output.pairs \(1500 there, 800 here\)"):
        couple(settings(directory, output={"pairs": 800}), extend=True)


def test_a_directory_without_a_pair_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that was refused or died before its first block does not keep others out."""
    constant = tmp_path / "constant.npz"
    np.savez(constant, image=np.ones((40, 3), np.float32))
    data = {"path": str(constant), "label": None}
    with pytest.raises(InputError, match=r"std\(C\)=0: all costs are equal"):
        couple(settings(tmp_path / "s", data=data, coupling={"n": 40}, output={"pairs": 40}))
    assert (tmp_path / "s" / "config.yaml").is_file()
    couple(settings(tmp_path / "s", output={"pairs": 400}))
    assert "holds no pair yet; starting over with this config" in capsys.readouterr().err
    assert verify(tmp_path / "s").faults == []


def test_another_config_in_the_same_directory_is_refused(reference: Path) -> None:
    with pytest.raises(InputError, match=r"coupling.rel_eps \(0.1 there, 0.2 here\)"):
        couple(settings(reference, coupling={"rel_eps": 0.2}))


def test_other_data_in_the_same_directory_are_refused(reference: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", image=np.zeros((500, 1, 8, 8), np.float32), label=np.arange(500) % 10)
    with pytest.raises(InputError, match=r"data.fingerprint \("):
        couple(
            settings(reference.parent / "reference", data={"path": str(tmp_path / "other.npz")}, output={"pairs": 1500})
        )


def test_an_output_among_the_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a job that goes on would read what it wrote; a folder of the name of the digits is none of data."""
    monkeypatch.chdir(tmp_path)
    for name in ("cells", "digits"):
        Path(name).mkdir()
    np.save("cells/x.npy", np.eye(64, dtype=np.float32))
    among = r"output.dir='cells/../cells/out': lies in data.path='cells', all files of which are read as data"
    with pytest.raises(InputError, match=among):
        couple(settings(Path("cells/../cells/out"), data={"path": "cells", "label": None}))
    assert sorted(path.name for path in Path("cells").iterdir()) == ["x.npy"]
    couple(settings(Path("digits/out")))


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty and not a pair store"):
        couple(settings(tmp_path))
    (tmp_path / "config.yaml").write_text("train: {steps: 4}\n")
    with pytest.raises(InputError, match="holds a training run; give an empty or a new directory"):
        couple(settings(tmp_path))


def test_a_block_that_does_not_converge_fails_the_job(tmp_path: Path, local_ray: None) -> None:
    hopeless = {"rel_eps": 0.003, "max_passes": 1, "tol": 1e-9}
    with pytest.raises(JobError, match=r"block \d stopped after .* passes at a marginal error of") as failed:
        couple(settings(tmp_path / "failed", coupling=hopeless, cluster={"actors": 2}))
    assert not (tmp_path / "failed" / "index.json").exists()
    assert failed.tb is not None, "whose frames hold the job's"
    while ray.available_resources().get("CPU") != 2:  # the actors are dismissed all the same
        time.sleep(0.05)
    couple(settings(tmp_path / "recorded", coupling=hopeless | {"on_unconverged": "record"}))
    assert not any(row["converged"] for row in read_blocks(tmp_path / "recorded"))


@pytest.mark.parametrize("method", ["independent", "exact"])
def test_other_methods_write_stores_too(tmp_path: Path, method: str) -> None:
    coupling = {"method": method, "rel_eps": None}
    couple(settings(tmp_path / "s", coupling=coupling, output={"pairs": 400}))
    assert verify(tmp_path / "s").faults == []
    row = read_blocks(tmp_path / "s")[0]
    assert (row["sharpness"] == pytest.approx(1.0)) == (method == "independent")
    assert (row["cost_coupled"] < 0.9 * row["cost_independent"]) == (method == "exact")


def test_a_sharpness_instead_of_an_epsilon(tmp_path: Path) -> None:
    couple(settings(tmp_path / "s", coupling={"rel_eps": None, "sharpness": 0.2}, output={"pairs": 400}))
    row = read_blocks(tmp_path / "s")[0]
    assert row["converged"]
    assert row["sharpness"] == pytest.approx(0.2, abs=0.01)
    unequal = {"n": 8192, "resample": "repeat", "rel_eps": None, "sharpness": 0.05}
    with pytest.raises(InputError, match=r"sharpness=0.05: no coupling .* below 0\.092"):
        couple(settings(tmp_path / "t", coupling=unequal))


def test_balanced_draws_use_every_datum_equally_often(tmp_path: Path) -> None:
    couple(settings(tmp_path / "s", sampling={"draw": "balanced"}, coupling={"n": 300}, output={"pairs": 300}))
    ids = np.concatenate([record["meta"]["data_ids"] for record in plain_records(tmp_path / "s")])
    assert len(np.unique(ids)) == 300
    verdict = verify(tmp_path / "s")
    assert verdict.data_used == 300
    assert verdict.draw_error == pytest.approx(2 * (1 - 300 / 1797))
    assert verdict.draw_error < verdict.chance_error


def test_pairs_are_the_data_and_the_noise_they_name(reference: Path) -> None:
    """x1 against scikit-learn's digits by id, x0 against the generator by counter, labels against the digits'."""
    from flowpairs.pipeline.blocks import noise

    digits = load_digits()
    for record in plain_records(reference):
        ids, meta = np.array(record["meta"]["data_ids"]), record["meta"]
        np.testing.assert_array_equal(record["x1"][:, 0], (digits.images[ids] / 8 - 1).astype(np.float32))
        np.testing.assert_array_equal(record["label"], digits.target[ids])
        x0 = noise.gaussian(meta["seed"], meta["first_noise_counter"], len(ids), 64)
        np.testing.assert_array_equal(record["x0"].reshape(-1, 64), x0)


def plain_records(directory: Path) -> list[dict[str, Any]]:
    """The README's reader: plain webdataset and numpy."""
    import webdataset as wds

    urls = sorted(str(path) for path in (directory / "shards").glob("*.tar"))
    dataset = wds.WebDataset(urls, shardshuffle=False).decode(only=["x0.npy", "x1.npy", "label.npy", "meta.json"])
    names = {"x0.npy": "x0", "x1.npy": "x1", "label.npy": "label", "meta.json": "meta"}
    return [{names[key]: value for key, value in sample.items() if key in names} for sample in dataset]


def test_each_actor_gets_its_own_gpu(tmp_path: Path) -> None:
    """Two logical GPUs: Ray hands each actor a different one, which it computes on, or refuses without CUDA."""
    program = (
        "import json, sys, ray; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "ray.init(address='local', num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)\n"
        "import flowpairs.pipeline.couple as job\n"
        "from support.couplings import settings\n"
        f"config = settings(Path({str(tmp_path / 's')!r}), output={{'pairs': 3200}}, "
        "cluster={'actors': 'auto'})\n"
        "rows = []\n"
        "job.couple(config, on_block=rows.append)\n"
        "print(json.dumps([row['gpus'] for row in rows]))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    if not torch.cuda.is_available():
        assert "InputError: cluster.gpus_per_actor: Ray gave an actor GPU" in out.stderr
        return
    assert {tuple(gpus) for gpus in json.loads(out.stdout.splitlines()[-1])} == {("0",), ("1",)}

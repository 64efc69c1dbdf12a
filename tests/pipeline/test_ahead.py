"""The next block's noise and features made while one is solved: here on CPUs, where jobs do not do it by themselves."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from support.couplings import settings, shard_bytes
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import NAME
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.cluster import executor
from flowpairs.pipeline.cluster.scheduler import schedule
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.solve.ahead import Ahead

PCA = {"features": {"pca": 16}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks, each made when it is solved."""
    directory = tmp_path_factory.mktemp("ahead") / "reference"
    couple(settings(directory, **PCA))
    return directory


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Let jobs work ahead without a GPU; the first row of each noise that this process makes, and its thread."""
    assert not executor.works_ahead(ActorShape(1, 2, 0.0))
    assert executor.works_ahead(ActorShape(1, 2, 1.0))
    made, of_noise = list[tuple[int, str]](), Features.of_noise

    def noted(self: Features, seed: int, first: int, *rest: Any) -> Any:
        made.append((first, threading.current_thread().name.split("_")[0]))
        return of_noise(self, seed, first, *rest)

    monkeypatch.setattr(executor, "works_ahead", lambda shape: True)
    monkeypatch.setattr(Features, "of_noise", noted)
    return made


def test_blocks_made_ahead_have_the_same_bytes(reference: Path, tmp_path: Path, ahead: list) -> None:
    couple(settings(tmp_path / "s", **PCA))
    assert shard_bytes(tmp_path / "s") == shard_bytes(reference)
    assert ahead == [(0, "MainThread"), (400, "ahead"), (800, "ahead"), (1200, "ahead")]


@pytest.mark.parametrize("cluster", [{"actors": 2}, {"actors": 2, "actors_per_block": 2}])
def test_actors_that_work_ahead_write_the_same_bytes(
    tmp_path: Path, cluster: dict, ahead: list, local_ray: None
) -> None:
    job = PCA | {"coupling": {"n": 1600, "rel_eps": 0.1}, "output": {"pairs": 4000}}
    couple(settings(tmp_path / "ray", cluster=cluster, **job))
    couple(settings(tmp_path / "here", **job))
    assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "here")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("the noise is missing"), "^the noise is missing$"),
        (MemoryError("512 GiB"), "^block 1: out of memory"),
    ],
)
def test_what_fails_ahead_is_told_of_its_block(
    tmp_path: Path, error: Exception, told: str, ahead: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where it is made in turn; the block before is written."""
    noted = Features.of_noise

    def failing(self: Features, seed: int, first: int, *rest: Any) -> Any:
        made = noted(self, seed, first, *rest)
        if first == 400:
            raise error
        return made

    monkeypatch.setattr(Features, "of_noise", failing)
    with pytest.raises(InputError if isinstance(error, InputError) else JobError, match=told):
        couple(settings(tmp_path / "s", **PCA))
    assert ahead[-1] == (400, "ahead")
    assert sorted(shard_bytes(tmp_path / "s")) == [f"pairs-00000{k}.tar" for k in range(3)]


def test_one_is_made_ahead_and_another_in_turn() -> None:
    made = list[tuple[int, bool]]()

    def make(number: int) -> tuple[Tensor, None]:
        made.append((number, threading.current_thread() is threading.main_thread()))
        return torch.tensor(number), None

    inputs = Ahead(make, "cpu")
    inputs.begin(3)
    assert inputs.take(3)[0] == 3
    inputs.begin(4)
    assert inputs.take(5)[0] == 5
    assert inputs.take(4)[0] == 4, "dropped, and made again"
    assert made[0] == (3, False)
    assert [each for each in made if each[1]] == [(5, True), (4, True)]


def test_an_actor_takes_the_block_that_another_was_told_of(tmp_path: Path, local_ray: None) -> None:
    """One actor stays in block 0 until all others are solved, among them the one that it was told would be its next."""

    class Noting:
        def ready(self) -> None:
            pass

        def solve(self, block: int, ahead: int | None) -> None:
            self.block = block
            (tmp_path / f"{block} then {ahead}").touch()
            while block == 0 and len(list(tmp_path.iterdir())) < 5:
                time.sleep(0.01)

        def write(self) -> dict[str, Any]:
            return {"block": self.block}

    class Pool:
        size, ahead = 2, True

        def start(self) -> Any:
            return ray.remote(num_cpus=0)(Noting).remote()

        def stop(self, actor: Any) -> None:
            ray.kill(actor)

        def watch(self, actor: Any) -> None:
            return None

        def fits(self, actor: Any) -> bool:
            return True

    assert sorted(row["block"] for row in schedule(Pool(), range(5))) == [0, 1, 2, 3, 4]
    told = sorted(path.name for path in tmp_path.iterdir())
    assert told == ["0 then 1", "1 then None", "2 then 3", "3 then 4", "4 then None"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_job_that_works_ahead(tmp_path: Path, number: signal.Signals, status: int) -> None:
    (tmp_path / "couple.yaml").write_text(
        "data: {path: digits}\ncoupling: {n: 1024, rel_eps: .1}\ncluster: {actors: 0}\n"
        f"output: {{dir: {tmp_path / 'out'}, pairs: 10240000, payload: ids}}\n"
    )
    code = "from flowpairs.pipeline.cluster import executor; executor.works_ahead = lambda shape: True\n"
    code += "from flowpairs.jobs.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "couple", str(tmp_path / "couple.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob("out/shards/*.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert told.rstrip().endswith("interrupted; run the same command again to go on")
    assert "Traceback" not in told
    assert not (tmp_path / "out" / NAME).exists()
    assert not list((tmp_path / "out").rglob(".*.tmp"))

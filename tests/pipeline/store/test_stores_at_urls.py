"""Pair stores at URLs: the bytes of a local store, read back by everything that reads stores."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pytest
import torch
from support.couplings import settings, shard_bytes

from flowpairs.pipeline.base.atomic import atomic_open
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import Remote, as_path
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.format import read_index
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reference import read_reference
from flowpairs.training.report.page import write_report

JOB = {"coupling": {"n": 300}, "output": {"pairs": 600, "payload": "ids"}}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Remote]]:
    """The same job on the local disk and in memory."""
    local, remote = tmp_path_factory.mktemp("urls") / "local", as_path("memory://stores-at-urls/store")
    couple(settings(local, **JOB))  # type: ignore[arg-type]
    assert isinstance(remote, Remote)
    couple(settings(remote, **JOB))  # type: ignore[arg-type]
    yield local, remote
    fsspec.filesystem("memory").rm("/stores-at-urls", recursive=True)


def test_a_store_at_a_url_has_the_bytes_of_a_local_one(stores: tuple[Path, Remote]) -> None:
    local, remote = stores
    files = {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    names = fsspec.filesystem("memory").find("/stores-at-urls/store")
    found = {
        name.removeprefix("/stores-at-urls/store/"): (remote / name.removeprefix("/stores-at-urls/store/"))
        for name in names
    }
    assert found.keys() == files.keys()
    for name, content in files.items():
        if name.endswith((".tar", ".npy", "index.json")):
            assert found[name].read_bytes() == content


def test_everything_that_reads_stores_reads_it(stores: tuple[Path, Remote], tmp_path: Path) -> None:
    local, remote = stores
    assert verify(remote).faults == recompute(remote, 1) == []
    status = read_status(remote)
    assert (status.complete, status.pairs, status.blocks) == (True, 600, 2)
    assert [row["n"] for row in read_blocks(remote)] == [300, 300]
    ours, theirs = (read_reference(where, read_index(where)) for where in (str(remote), local))
    assert torch.equal(ours.x, theirs.x)
    batches = []
    for where in (str(remote), str(local)):
        with ShardLoader(where, read_index(where), BatchPart(32, 0, 1, 4), seed=0, labels=True) as loader:
            batches.append([batch.x1 for batch in islice(loader, 30)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert "600" in write_report([remote], tmp_path / "report.html").read_text()
    convert(remote, as_path("memory://stores-at-urls/full"), "full")
    convert(local, tmp_path / "full", "full")
    for path in (tmp_path / "full" / "shards").glob("*.tar"):
        assert (as_path("memory://stores-at-urls/full") / "shards" / path.name).read_bytes() == path.read_bytes()


def test_damage_at_a_url_is_found(stores: tuple[Path, Remote]) -> None:
    remote = stores[1]
    tar = remote / "shards" / "pairs-000001.tar"
    kept = tar.read_bytes()
    for content, says in (
        (kept[:-512], "bytes, the index says"),
        (kept[:-1] + b"x", "another SHA-256"),
        (None, "is missing"),
    ):
        tar.unlink()
        if content is not None:
            fsspec.filesystem("memory").pipe("/stores-at-urls/store/shards/pairs-000001.tar", content)
        assert says in verify(remote).faults[0]
    fsspec.filesystem("memory").pipe("/stores-at-urls/store/shards/pairs-000001.tar", kept)


def test_an_exception_leaves_nothing_at_a_url() -> None:
    file = as_path("memory://stores-at-urls/half")

    def fail_halfway() -> None:
        with atomic_open(file) as opened:
            opened.write(b"half")
            raise RuntimeError("mid-write")

    with pytest.raises(RuntimeError, match="mid-write"):
        fail_halfway()
    assert not file.exists()


def test_a_store_in_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"output.dir='memory://x': every process has a memory of its own"):
        couple(settings("memory://x", cluster={"actors": 1}))  # type: ignore[arg-type]


S3 = """
import os, sys
sys.path.insert(0, "tests")
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
import fsspec
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.store.verify import verify
from support.couplings import settings

try:
    couple(settings("s3://nowhere/pairs", cluster={"actors": 1}))
except JobError as error:
    print(error)
bucket = fsspec.filesystem("s3", use_listings_cache=False)
bucket.mkdir("bucket")
couple(settings("s3://bucket/pairs", cluster={"actors": 2}))
before = bucket.modified("bucket/pairs/shards/pairs-000000.tar")
bucket.rm_file("bucket/pairs/shards/pairs-000004.tar")
assert couple(settings("s3://bucket/pairs", cluster={"actors": 1})).pairs == 1500
assert bucket.modified("bucket/pairs/shards/pairs-000000.tar") == before, "a finished block was computed again"
assert verify(as_path("s3://bucket/pairs")).faults == []
bucket.get("bucket/pairs", sys.argv[1], recursive=True)
server.stop()
"""


@pytest.mark.slow
def test_a_job_on_an_object_store(tmp_path: Path, local_ray: None) -> None:
    """Real actors and a real S3 protocol: a bucket that is not there, a run, a lost shard, the same bytes."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-c", S3, str(tmp_path / "fetched")]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    assert "s3://nowhere/pairs/owner.json: cannot be written" in out.stdout
    couple(settings(tmp_path / "local"))
    assert shard_bytes(tmp_path / "fetched") == shard_bytes(tmp_path / "local")
    assert (tmp_path / "fetched" / "index.json").read_bytes() == (tmp_path / "local" / "index.json").read_bytes()

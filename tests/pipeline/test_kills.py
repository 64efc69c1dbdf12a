"""Real processes killed with SIGKILL, again and again: the index that comes out is that of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.couplings import couple_here, settings, shard_bytes
from support.processes import outside

from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify

pytestmark = pytest.mark.slow

KILLS = 3 if os.environ.get("FLOWPAIRS_TESTS") == "all" else 1
JOB = {"coupling": {"n": 60}, "output": {"pairs": 3_000, "pairs_per_shard": 20}, "cluster": {"actors": 2}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faults") / "undisturbed"
    couple_here(settings(directory, **JOB))
    return directory


def test_a_driver_killed_at_random_moments(undisturbed: Path, tmp_path: Path) -> None:
    """Once (three times by `make test-all`): killed when a random number of files is there, whole or half-written."""
    directory, config = tmp_path / "s", tmp_path / "couple.yaml"
    config.write_text(json.dumps(settings(directory, **JOB).model_dump(mode="json")))  # JSON is YAML
    moments, shards = random.Random(0), directory / "shards"
    kept: dict[str, int] = {}
    for _ in range(KILLS):
        command = [sys.executable, "-m", "jobs.couple", str(config)]
        with subprocess.Popen(command, env=outside(), start_new_session=True, stderr=subprocess.DEVNULL) as driver:
            wanted = len(kept) + moments.randrange(2, 60)
            while len(list(shards.glob("*"))) < wanted:
                assert driver.poll() is None, "the job ended before it was killed"
                time.sleep(0.005)
            os.killpg(driver.pid, signal.SIGKILL)
        assert not (directory / "index.json").exists()
        for name, written in kept.items():
            assert (shards / name).stat().st_mtime_ns == written, "a finished block was computed again"
        status = read_status(directory)
        assert 0 < status.pairs < 3_000
        # Whole blocks are kept; a block that was cut short is done again from its first shard.
        done = [path for path in shards.glob("pairs-*.tar") if block_is_whole(path)]
        kept = {path.name: path.stat().st_mtime_ns for path in done}
    couple(settings(directory, **JOB))
    assert shard_bytes(directory) == shard_bytes(undisturbed)
    assert (directory / "index.json").read_bytes() == (undisturbed / "index.json").read_bytes()
    assert verify(directory).faults == []


def block_is_whole(tar: Path) -> bool:
    """Blocks of 60 pairs are three shards of 20."""
    first = int(tar.stem.removeprefix("pairs-")) // 3 * 3
    return all((tar.parent / f"pairs-{number:06d}.json").exists() for number in range(first, first + 3))


def test_a_killed_raylet(undisturbed: Path, tmp_path: Path) -> None:
    """Two raylets on one machine; the one without the driver is killed while its actor works."""
    program = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.couplings import settings
from support.processes import two_raylets
from flowpairs.pipeline.couple import couple

_, other = two_raylets()
seen = []

def kill_once(row):
    if not seen:
        os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    seen.append(row)

couple(settings(Path({str(tmp_path / "s")!r}), **{JOB!r}), kill_once)
assert len(seen) == 50, len(seen)
os._exit(0)  # the test cluster's own shutdown minds that one of its processes is gone
"""
    subprocess.run([sys.executable, "-c", program], env=outside(), check=True, timeout=240, stderr=subprocess.DEVNULL)
    assert shard_bytes(tmp_path / "s") == shard_bytes(undisturbed)
    assert verify(tmp_path / "s").faults == []

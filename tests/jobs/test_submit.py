"""Jobs submitted to a real head with token authentication, as docs/cluster.md has it."""

import json
import shutil
import signal
import time
import urllib.error
from pathlib import Path

import pytest
from support.couplings import couple_here
from support.installed import unpack_wheel

from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.run.logbook import read_metrics

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
COUPLE = str(PROJECT / "configs" / "digits" / "couple.yaml")
STREAM = str(PROJECT / "configs" / "digits" / "stream.yaml")
TRAIN = str(PROJECT / "configs" / "digits" / "train.yaml")
# Its gate makes a job last until the test has seen it in the middle; it changes no bit.
COST = """
import time
import urllib.error
from pathlib import Path

def gated(x, y):
    if Path({gate!r}).exists():
        time.sleep(0.3)
    return -(x @ y.T)
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("store") / "pairs"
    small = ["coupling.n=256", "coupling.rel_eps=0.3", "output.pairs=256"]
    couple_here(load(CoupleConfig, COUPLE, [f"output.dir={directory}", *small]))
    return directory


def told(head, series, output: Path) -> dict[str, float]:
    """What Prometheus was served of the newest job that writes to a directory, by the job's number in Ray's series."""
    writers = [job for job in head.jobs(head.token) if job["metadata"].get("output") == str(output)]
    newest = max(writers, key=lambda job: job["start_time"])
    tags = (output.name, newest["job_id"])
    return {name: value for (name, *others), value in series.items() if tuple(others) == tags}


@pytest.mark.nightly
def test_training_alone_is_submitted_too(head, pairs, tmp_path):
    """By `make test` it is half of a stream, in the last of these tests."""
    command = ["submit", "train", TRAIN, f"pairs.dir={pairs}", f"output.dir={tmp_path / 'run'}"]
    small = ["train.steps=20", "train.batch=64", "train.warmup=5", "cluster.workers=1"]
    with head.scraped() as series:
        job = head.flowpairs(*command, *small)
    assert job.returncode == 0, job.stdout
    assert json.loads((tmp_path / "run" / "train.json").read_bytes())["steps"] == 20
    assert told(head, series, tmp_path / "run")["train_step"] == 20


def test_the_exit_status_is_the_commands(head, pairs, tmp_path):
    absent = head.flowpairs("submit", "verify", str(tmp_path / "absent"))
    assert absent.returncode == 2
    assert f"error: pair store {str(tmp_path / 'absent')!r}: no such directory" in absent.stdout
    [shard] = pairs.glob("shards/*.tar")
    shutil.copytree(pairs, tmp_path / "damaged")
    (tmp_path / "damaged" / "shards" / shard.name).write_bytes(bytes(shard.stat().st_size))
    damaged = head.flowpairs("submit", "verify", str(tmp_path / "damaged"))
    assert damaged.returncode == 1
    assert shard.name in damaged.stdout


def test_stopped_in_the_middle_and_submitted_again_it_ends_in_the_same_bytes(head, tmp_path, monkeypatch):
    gate, out = tmp_path / "gate", tmp_path / "pairs"
    (head.root / "gated.py").write_text(
        COST.format(gate=str(gate))
    )  # beside the commands; the cluster has it by shipping
    gate.touch()
    small = ["coupling.n=512", "coupling.rel_eps=0.1", "coupling.cost=gated:gated", "output.pairs=16384"]
    command = ["submit", "couple", COUPLE, f"output.dir={out}", *small]

    with head.second():
        follower, deadline = head.start(*command), time.monotonic() + 120
        while not (done := list(out.glob("shards/*.json"))):
            assert follower.poll() is None, follower.communicate()[0]
            assert time.monotonic() < deadline, head.jobs(head.token)
            time.sleep(0.1)
        follower.send_signal(signal.SIGINT)
        said, _ = follower.communicate(timeout=60)
        assert follower.returncode == 1
        first = said.split(":", 1)[0]
        assert f"`flowpairs jobs --follow {first}` follows it again, `flowpairs stop {first}` ends it" in said

        twice = head.flowpairs(*command)
        assert twice.returncode == 2
        assert f"{first} writes there and still runs" in twice.stdout
        assert head.flowpairs("stop", first).stdout == f"{first}: stopped\n"
        assert not (out / "index.json").exists()

        gate.unlink()
        done = list(out.glob("shards/*.json"))
        before = {path: path.stat().st_mtime_ns for path in done}
        with head.scraped() as series:
            again = head.flowpairs(*command, "--no-wait")
            assert again.returncode == 0, again.stdout
            second = again.stdout.split(":", 1)[0]
            followed = head.flowpairs("jobs", "--follow", second)
        assert followed.returncode == 0, followed.stdout
        assert "coupling on 2 actors" in followed.stdout  # of one core, as the raylets have
        assert {path: path.stat().st_mtime_ns for path in done} == before

        now, left = told(head, series, out), 32 - len(done)
        assert (now["couple_pairs_total"], now["couple_passes_count"]) == (512 * left, left)
        assert (now["couple_blocks_done"], now["couple_blocks_left"]) == (32, 0)
        assert 0 < now["couple_marginal_error"] < 1e-3
        assert now["couple_pairs_per_second"] > 0

        listed = [job for job in json.loads(head.flowpairs("jobs", "--json").stdout) if job["output"] == str(out)]
        assert [job["id"] for job in listed] == [first, second]
        assert [(job["command"], job["status"]) for job in listed] == [("couple", "STOPPED"), ("couple", "SUCCEEDED")]

    monkeypatch.syspath_prepend(str(head.root))
    whole = tmp_path / "whole"
    couple_here(load(CoupleConfig, COUPLE, [f"output.dir={whole}", *small]))
    shards = {path.name: path.read_bytes() for path in out.glob("shards/*.tar")}
    assert len(shards) == 32
    assert {path.name: path.read_bytes() for path in whole.glob("shards/*.tar")} == shards


def test_without_the_token_nothing_is_submitted(head, tmp_path):
    before = head.jobs(head.token)
    for environment, says in [
        ({"HOME": str(tmp_path)}, "asks for a token, and none is here"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token, and none is here"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "wrong token"),
    ]:
        refused = head.flowpairs("submit", "couple", COUPLE, f"output.dir={tmp_path / 'pairs'}", **environment)
        assert refused.returncode == 2
        assert says in refused.stdout
        assert len(refused.stdout.splitlines()) == 1
    assert head.jobs(head.token) == before
    for token, status in [(None, 401), ("0" * 64, 403)]:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            head.jobs(token)
        refusal.value.close()
        assert refusal.value.code == status


def test_a_job_that_is_not_there_is_named(head):
    refused = head.flowpairs("stop", "absent")
    assert refused.returncode == 2
    assert refused.stdout.startswith("error: job 'absent': not on this cluster")


def test_couplings_and_training_in_one_submission_from_an_installed_package_are_watched(head, tmp_path):
    """One of the two raylets of one core trains, the other one couples.

    The code is a wheel's, and the user's directory holds modules named as this project's folders.
    """
    site, pairs, run = unpack_wheel(tmp_path), tmp_path / "streamed-pairs", tmp_path / "streamed-run"
    assert {"jobs.py", "pipeline.py", "training"} <= {path.name for path in head.root.iterdir()}
    command = ["submit", "stream", STREAM, f"couple.output.dir={pairs}", f"train.output.dir={run}"]
    command += ["couple.coupling.n=1024", "couple.output.pairs=4096", "train.train.log_every=20"]
    command += ["train.model.width=32", "train.train.steps=20", "train.train.batch=64", "train.train.warmup=5"]
    with head.second(), head.scraped() as series:
        job = head.flowpairs(*command, code=site)
    assert job.returncode == 0, job.stdout
    [listed] = [job for job in json.loads(head.flowpairs("jobs", "--json").stdout) if job["command"] == "stream"]
    assert listed["output"] == f"{pairs}\n{run}"
    assert "coupling on 1 actor: 100 %  4/4 blocks" in job.stdout
    assert "training: 100 %  step 20/20" in job.stdout
    assert verify(pairs).faults == []
    assert json.loads((run / "train.json").read_bytes())["steps"] == 20
    [line] = read_metrics(run / "metrics.jsonl")
    by_output = {path: {name: v for (name, of, _), v in series.items() if of == path.name} for path in (pairs, run)}
    assert by_output[run] == {
        "train_step": 20,
        "train_steps_left": 0,
        "train_loss": line["loss"],
        "train_pairs_per_second": line["samples_per_s"],
        "train_data_wait_ratio": line["data_wait"],
    }
    assert (by_output[pairs]["couple_blocks_done"], by_output[pairs]["couple_blocks_left"]) == (4, 0)
    status = head.flowpairs("submit", "status", str(run), "--", "--json")
    found = json.loads(status.stdout.splitlines()[-1])
    assert (status.returncode, found["complete"], found["step"], found["loss"]) == (0, True, 20, line["loss"])

"""How a command ends that is told to, and where it may be started."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from support.runs import MLP, write_run

from flowpairs.jobs.entry import STARTS_OVER
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.owner import NAME
from flowpairs.pipeline.cluster.connect import _keep_token_in_memory, check_address

BIN = Path(sys.executable).parent / "flowpairs"


def begin(directory: Path, **options: object) -> "subprocess.Popen[str]":
    """A job of thousands of blocks in the command's own process, once it has written one."""
    (directory.parent / "couple.yaml").write_text(
        "data: {path: digits}\ncoupling: {n: 256, method: independent, rel_eps: null}\ncluster: {actors: 0}\n"
        f"output: {{dir: {directory}, pairs: 2560000, payload: ids}}\n"
    )
    process = subprocess.Popen(
        [str(BIN), "couple", str(directory.parent / "couple.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
        **options,  # type: ignore[call-overload]
    )
    while not list(directory.glob("shards/*.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_job_with_one_sentence(tmp_path: Path, number: signal.Signals, status: int) -> None:
    directory = tmp_path / "out"
    process = begin(directory)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status
    lines = [line for line in told.splitlines() if not line.startswith("coupling in this process")]
    told = "data: ", "payload: ", "features: "  # of what is read
    assert [line for line in lines if not line.startswith(told)] == ["interrupted; run the same command again to go on"]
    assert list(directory.glob("shards/*.json"))
    assert not (directory / NAME).exists()
    assert not list(directory.rglob(".*.tmp"))


TRAIN = """
model: {{kind: mlp, width: 16, depth: 1}}
train: {{steps: 1000000, batch: 16, warmup: 1, log_every: 10, checkpoint_every: 1000000}}
cluster: {{workers: 1}}
output: {{dir: {root}/run}}
"""
COUPLE = """
data: {{path: digits}}
coupling: {{n: 64, method: independent, rel_eps: null}}
cluster: {{actors: {actors}}}
output: {{dir: {root}/pairs, pairs: {pairs}}}
"""


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["plan", "train", "evaluate", "stream"])
def test_a_signal_ends_every_long_command_with_one_sentence(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    """Each on a Ray of its own, which ends with it; what is owned is given back."""
    finished = {"actors": 0, "pairs": 64} if command in ("train", "evaluate") else {"actors": 1, "pairs": 6_400_000}
    (tmp_path / "couple.yaml").write_text(COUPLE.format(root=tmp_path, **finished))
    training, pairs = TRAIN.format(root=tmp_path), f"pairs: {{dir: {tmp_path}/pairs}}\n"
    (tmp_path / "train.yaml").write_text(pairs + training)
    both = {"couple": COUPLE.format(root=tmp_path, **finished), "train": training}
    nested = [f"{part}:\n{textwrap.indent(text, '  ')}" for part, text in both.items()]
    (tmp_path / "stream.yaml").write_text("\n".join(nested))
    if command in ("train", "evaluate"):
        subprocess.run([str(BIN), "couple", str(tmp_path / "couple.yaml")], check=True, capture_output=True)
    if command == "evaluate":
        write_run(tmp_path / "run", MLP, (1, 8, 8), pairs=str(tmp_path / "pairs"))
    words = {
        "plan": [tmp_path / "couple.yaml"],
        "train": [tmp_path / "train.yaml"],
        "evaluate": [tmp_path / "run", "samples=1000000", "batch=16"],
        "stream": [tmp_path / "stream.yaml"],
    }
    begun = {
        "plan": lambda: any(tmp_path.glob(".flowpairs-plan-*")),  # a trial has begun
        "train": (tmp_path / "run" / "metrics.jsonl").is_file,
        "evaluate": (tmp_path / "run" / ".evaluating").is_file,
        "stream": lambda: any(tmp_path.glob("pairs/shards/*.json")),
    }
    process = subprocess.Popen(
        [str(BIN), command, *map(str, words[command])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
    )
    while not begun[command]():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + number, told
    again = "the same command starts over" if command in STARTS_OVER else "run the same command again to go on"
    assert f"interrupted; {again}" in told
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("*owner*"))
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_second_job_in_the_same_directory_is_refused_by_name(tmp_path: Path) -> None:
    process = begin(tmp_path / "out")
    command = [str(BIN), "couple", str(tmp_path / "couple.yaml")]
    second = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert second.returncode == 2
    assert f": flowpairs couple (process {process.pid} on {socket.gethostname()}" in second.stderr
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import signal, typer; from flowpairs.jobs.entry import run_command\n"
         "run_command(lambda: print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN))"],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert process.stdout == "True\n"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream_does_not_matter(tmp_path: Path, closed: int) -> None:
    (tmp_path / "couple.yaml").write_text(
        "data: {path: digits}\ncoupling: {n: 128}\ncluster: {actors: 0}\n"
        f"output: {{dir: {tmp_path}/out, pairs: 128, payload: ids}}\n"
    )
    command = f"exec '{BIN}' couple '{tmp_path}/couple.yaml' {closed}{'<' if closed == 0 else '>'}&-"
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert (tmp_path / "out" / "index.json").is_file()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://head:8265", "takes jobs only"),
        ("ray://head:10001", "a client of Ray cannot run this"),
        ("garbage", "no address; give HOST:PORT"),
        ("head:0", "no address"),
        ("127.0.0.1:99999", "no address"),
        ("no-such-host.invalid:6379", "nothing answers there"),
    ],
)
def test_an_address_that_takes_no_driver_is_one_sentence(address: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        check_address(address)
    assert str(refused.value).startswith(f"RAY_ADDRESS={address!r}: ")


def test_an_address_where_nobody_or_somebody_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowpairs.pipeline.cluster.connect.PATIENCE", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="nothing answers there"):
            check_address(address)
        server.listen()
        with pytest.raises(InputError, match="nothing answers there"):  # it takes the connection and stays silent
            check_address(address)

        def greet() -> None:
            for _ in range(3):  # the ones above are still in the queue
                with server.accept()[0] as peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with socket.create_connection(server.getsockname()), pytest.raises(InputError, match="is no head of Ray"):
            check_address(address)
        server.close()


def test_rays_token_stays_in_memory_where_home_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    monkeypatch.setenv("HOME", "/proc/nothing")
    _keep_token_in_memory()
    assert os.environ["RAY_AUTH_TOKEN"] == "given"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    _keep_token_in_memory()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.slow
@pytest.mark.nightly
def test_no_home_to_write_to_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "couple.yaml").write_text(
        "data: {path: digits}\ncoupling: {n: 128}\ncluster: {actors: 1}\n"
        f"output: {{dir: {tmp_path}/out, pairs: 128, payload: ids}}\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"HOME": "/proc/nothing"}
    subprocess.run([str(BIN), "couple", str(tmp_path / "couple.yaml")], env=environment, check=True)
    assert (tmp_path / "out" / "index.json").is_file()


def test_a_place_where_ray_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "couple.yaml").write_text(
        f"data: {{path: digits}}\ncoupling: {{n: 128}}\noutput: {{dir: {tmp_path}/out, pairs: 128}}\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    out = subprocess.run(
        [str(BIN), "couple", str(tmp_path / "couple.yaml")],
        env=environment | {"RAY_TMPDIR": "/proc/nothing"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert out.returncode == 2
    assert len(out.stderr.splitlines()) == 1
    assert "set RAY_TMPDIR" in out.stderr
    assert not (tmp_path / "out").exists()

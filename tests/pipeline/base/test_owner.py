"""Who owns a directory: refused while it lives, taken over when it is dead, told when another one took it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import pytest

from flowpairs.pipeline.base import owner
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import NAME, Owner, owned, refuse_owned
from flowpairs.pipeline.base.paths import AnyPath, as_path

# Owns a directory until its standard input ends.
HOLDER = """
import sys
from flowpairs.pipeline.base.owner import owned
from flowpairs.pipeline.base.paths import as_path
with owned(as_path(sys.argv[1]), "output.dir='x'", "a job"):
    print("mine", flush=True)
    sys.stdin.read()
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def take(directory: AnyPath) -> None:
    with owned(directory, "output.dir='x'", "another job"):
        pass


def test_a_living_owner_is_named_and_a_killed_one_is_replaced_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "out"
    with holder(directory) as process:
        for attempt in (take, lambda path: refuse_owned(path, "output.dir='x'")):
            with pytest.raises(
                InputError, match=rf"output.dir='x': a job \(process {process.pid} on .*\) writes there"
            ):
                attempt(directory)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (directory / NAME).is_file()
    refuse_owned(directory, "output.dir='x'")
    take(directory)
    assert f"(process {process.pid} on " in capsys.readouterr().err
    assert list(directory.iterdir()) == []


def test_an_owner_leaves_when_it_ends(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.communicate()
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    before = replace(Owner.own("a job"), born=1)
    (tmp_path / NAME).write_text(json.dumps(asdict(before)))
    take(tmp_path)


@pytest.mark.parametrize("url", ["", "memory://owners"])
def test_one_on_another_machine_lives_as_long_as_its_heart(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = as_path(url or str(tmp_path))
    monkeypatch.setattr(owner, "LOOK", 2.5)
    monkeypatch.setattr(owner, "SETTLE", 0.0)
    other = replace(Owner.own("a job"), machine="elsewhere", host="elsewhere", process=1)
    owner._put(directory / NAME, other, exclusive=True)
    with pytest.raises(InputError, match="on elsewhere"):
        take(directory)

    silent = replace(other, beat=time.time() - 1000)
    owner._put(directory / NAME, silent, exclusive=False)
    beating = Thread(target=lambda: (time.sleep(1), owner._put(directory / NAME, other, exclusive=False)))
    beating.start()
    with pytest.raises(InputError, match="on elsewhere"):  # its clock was behind, but it beat while it was watched
        take(directory)
    beating.join()

    owner._put(directory / NAME, silent, exclusive=False)
    take(directory)
    assert not (directory / NAME).exists()


def test_of_two_that_take_over_at_the_same_time_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = replace(Owner.own("a job"), born=1)
    (tmp_path / NAME).write_text(json.dumps(asdict(dead)))
    rival = replace(Owner.own("a rival"), machine="elsewhere")
    sleep = time.sleep

    def settle(seconds: float) -> None:
        sleep(0.01)
        owner._put(tmp_path / NAME, rival, exclusive=False)

    monkeypatch.setattr("time.sleep", settle)
    with pytest.raises(InputError, match="a rival"):
        take(tmp_path)


def test_a_file_that_is_cut_off_is_dead_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "LOOK", 0.5)
    monkeypatch.setattr(owner, "SETTLE", 0.0)
    (tmp_path / NAME).write_text('{"command": ')
    with pytest.raises(InputError, match="an unknown job"):
        take(tmp_path)
    os.utime(tmp_path / NAME, (1, 1))
    take(tmp_path)


def test_one_that_slept_while_another_took_over_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.05)
    other = replace(Owner.own("another job"), host="elsewhere")

    def work() -> None:
        with owned(tmp_path, "output.dir='x'", "a job"):
            owner._put(tmp_path / NAME, other, exclusive=False)
            time.sleep(1)

    with pytest.raises(JobError, match=r"another job \(process \d+ on elsewhere.* took over"):
        work()
    assert (tmp_path / NAME).is_file()  # it is the other one's


def test_a_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.05)
    with owned(tmp_path, "output.dir='x'", "a job"):
        first = owner._read(tmp_path / NAME)
        time.sleep(0.5)
        second = owner._read(tmp_path / NAME)
    assert first is not None
    assert second is not None
    assert second.beat > first.beat
    assert second.token == first.token


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"owner.json: cannot be written \(Not a directory\)"):
        take(tmp_path / "file" / "out")

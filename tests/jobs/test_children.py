"""Processes that run at the same time: where one fails or their parent goes, in whatever way, none is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import alive

from flowpairs.jobs import _children
from flowpairs.jobs._children import Children
from flowpairs.pipeline.base.errors import InputError, JobError

# Says that it runs, and goes on until it is ended; `{meaning}` is what it does then.
LASTING = """
import os, signal, sys, time
from pathlib import Path
from flowpairs.jobs._children import die_with_parent

die_with_parent()
def ended(*_):
    Path(sys.argv[1] + ".ended").touch()
    sys.exit(15)
signal.signal(signal.SIGINT, ended if sys.argv[2] == "obeys" else signal.SIG_IGN)
print("it runs", file=sys.stderr)
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
# A command that runs one for each file.
PARENT = """
import sys
from flowpairs.jobs._children import Children
from flowpairs.jobs.entry import run_command

def command(lasting: str, files: list[str]) -> None:
    with Children() as children:
        for file in files:
            children.start("child", [sys.executable, "-c", lasting, file, "obeys"])
        children.wait()

run_command(command)
"""


def lasting(file: Path, meaning: str = "obeys") -> list[str]:
    return [sys.executable, "-c", LASTING, str(file), meaning]


def until(holds: Callable[[], object]) -> None:
    while not holds():
        time.sleep(0.02)


def running(file: Path) -> bool:
    """Whether the process that a file names runs."""
    return alive(int(file.read_text()))


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("import sys; print('error: n=5: too small', file=sys.stderr); sys.exit(2)", InputError, "b: n=5: too small"),
        ("import sys; print('failed: block 3', file=sys.stderr); sys.exit(1)", JobError, "b: block 3"),
        ("raise ValueError('a bug')", JobError, "b: ended with exit status 1; run the same command again to go on"),
        ("import os; os.kill(os.getpid(), 9)", JobError, "b: killed by signal 9; run the same command again to go on"),
    ],
)
def test_one_that_fails_ends_the_other_and_its_sentence_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, kind: type[Exception], says: str
) -> None:
    def both() -> None:
        with Children() as children:
            children.start("a", lasting(tmp_path / "a"))
            children.wait((tmp_path / "a").exists)
            children.start("b", [sys.executable, "-c", script])
            children.wait()

    with pytest.raises(kind) as caught:
        both()
    assert str(caught.value) == says
    assert not running(tmp_path / "a")
    assert (tmp_path / "a.ended").exists()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "a       it runs"
    assert [line for line in told[1:] if line.endswith("ValueError: a bug")] == told[1:][-1:]


def test_all_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like a failure's sentence is none where the process succeeds."""
    with Children() as children:
        children.start("one", [sys.executable, "-c", "import sys; print('error: not really', file=sys.stderr)"])
        children.start("another", [sys.executable, "-c", "import time; time.sleep(1)"])
        children.wait()
    assert capsys.readouterr().err == "one     error: not really\n"


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_children, "GRACE", 0.5)
    with Children() as children:
        children.start("a", lasting(tmp_path / "a", "ignores"))
        children.wait((tmp_path / "a").exists)
    assert not running(tmp_path / "a")
    assert not (tmp_path / "a.ended").exists()


@pytest.mark.parametrize("command", [["_children", "json"], ["_demo_runs", "training.yaml", "evaluation.yaml"]])
def test_one_that_waits_ends_at_an_interrupt_that_a_shell_has_ignored(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", f"flowpairs.jobs.{command[0]}", *command[1:]],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        while process.poll() is None:  # else the test's time runs out
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
    assert process.returncode in (130, -signal.SIGINT)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_none_outlives_the_parent(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C ends them in order, and is told in one sentence; a kill ends them all the same."""
    files = [tmp_path / "a", tmp_path / "b"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, LASTING, *map(str, files)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # some shells have it ignored
    )
    until(lambda: all(file.exists() and file.read_text() for file in files) or parent.poll() is not None)
    assert parent.poll() is None
    os.kill(parent.pid, how)
    _, said = parent.communicate(timeout=60)
    until(lambda: not any(running(file) for file in files))
    assert [file.with_suffix(".ended").exists() for file in files] == 2 * [how is signal.SIGINT]
    if how is signal.SIGINT:
        assert parent.returncode == 130
        *lines, last = said.splitlines()
        assert set(lines) <= {"child   it runs"}
        assert last == "interrupted; run the same command again to go on"


def test_a_command_waits_until_it_may_go() -> None:
    command = [sys.executable, "-m", "flowpairs.jobs._children", "json", "verify", "/absent"]
    with Children() as children:
        waiting = children.start("verify", command)
        time.sleep(2)
        assert not waiting.done()
        waiting.go()
        with pytest.raises(InputError, match=r"verify: .*/absent"):
            children.wait()
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 1

"""Commands of flowpairs as child processes, which end together if one of them fails.

    python -m flowpairs.jobs._children flowpairs.pipeline.couple couple job.yaml

imports a module, waits for a byte on standard input, and is then `flowpairs couple job.yaml`, which ends with the
process that holds the other end of its standard input.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from threading import Thread
from types import TracebackType

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.progress import LOOK_EVERY

GRACE = 20.0  # seconds that a process has to end by itself before it is killed


class Child:
    """A child process, whose lines on standard error are printed with its name in front.

    It leads a session of its own, so that Ctrl-C in a terminal reaches the parent process alone, which ends the others.

    Args:
        name: the name of the job, for printing.
        command: the command line to run.
        environment: the environment variables of the process.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._sentence = ""
        self._stopped = False
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # closes when this process dies in any way; see `die_with_parent`
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = Thread(target=self._pass_on, name=name, daemon=True)
        self._reader.start()

    def go(self) -> None:
        """Give it the byte that a command waits for."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def done(self) -> bool:
        """Return whether the process has ended with success.

        Raises:
            InputError: the process has failed with exit status 2; the message is its own, if it printed one.
            JobError: it has failed in another way; likewise.
        """
        status = self._process.poll()
        if status is None or status == 0:
            return status == 0
        self._reader.join(GRACE)
        how = f"killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        sentence = self._sentence.partition(": ")[2].rstrip() or f"{how}; run the same command again to go on"
        raise (InputError if status == 2 else JobError)(f"{self.name}: {sentence}")

    def stop(self) -> None:
        """Interrupt the process as Ctrl-C does; its further lines are not printed."""
        self._stopped = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended, and kill it after the given number of seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(GRACE)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _pass_on(self) -> None:
        """Print the lines of the process, except the error message that it fails with, which `done` raises."""
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if line.startswith(("error: ", "failed: ")):
                    self._print(self._sentence)
                    self._sentence = line
                else:
                    self._print(line)
        if self._process.wait() == 0:
            self._print(self._sentence)

    def _print(self, line: str) -> None:
        if line and not self._stopped:
            print(f"{self.name:7} {line.rstrip()}", file=sys.stderr, flush=True)


class Children:
    """Child processes that run at the same time; leaving the body of the `with` ends those that still run."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._all:
            child.stop()
        deadline = time.monotonic() + GRACE
        for child in self._all:
            child.wait(max(0.0, deadline - time.monotonic()))

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Child:
        """Start another process; see `Child`."""
        self._all.append(Child(name, command, environment))
        return self._all[-1]

    def running(self) -> int:
        """Count the processes that have not ended."""
        return sum(not child.done() for child in self._all)

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until all processes have ended, or until a condition holds.

        Args:
            until: the condition.

        Raises:
            InputError: a process has failed; see `Child.done`.
            JobError: likewise.
        """
        while [child for child in self._all if not child.done()] and not until():
            time.sleep(LOOK_EVERY)


def die_with_parent() -> None:
    """Kill this process as soon as its standard input closes, which happens when its parent process is gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch, name="parent", daemon=True).start()


def wait_for_go() -> None:
    """Wait for the byte that lets this process begin, and end with its parent from then on."""
    if not os.read(0, 1):
        sys.exit("nobody waits for this command")
    die_with_parent()


def heed_interrupts() -> None:
    """Let `Child.stop` end this process, also where a shell in the background made its jobs ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_child() -> None:
    """Be ready, then run a command."""
    heed_interrupts()
    import_module(sys.argv.pop(1))
    wait_for_go()
    from flowpairs.jobs.cli import main as command

    command()


if __name__ == "__main__":
    run_child()

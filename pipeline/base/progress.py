"""Progress of long work: one line that is redrawn in a terminal, or a plain line every few seconds in a log."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

LOG_EVERY = 5.0  # seconds between plain lines
LOOK_EVERY = 0.5  # seconds between looks at files that show how far others are


@runtime_checkable
class Show(Protocol):
    """The protocol of what shows progress."""

    def __call__(self, done: int, text: str) -> None:
        """Show `done` of the total, followed by `text`."""


def remaining(done: float, total: float, seconds: float) -> str:
    """Format the time left at the pace so far, as m:ss."""
    if done <= 0 or not math.isfinite(total):
        return "?:??"
    left = int(max(0.0, total - done) / done * seconds)
    hours, minutes = divmod(left // 60, 60)
    return f"{hours}:{minutes:02d}:{left % 60:02d}" if hours else f"{minutes}:{left % 60:02d}"


@contextmanager
def repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` twice a second in a thread, and once more at the end."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(LOOK_EVERY):
            action()
        action()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def progress(title: str, total: int) -> Iterator[Show]:
    """Open a progress line for `total` units of work; only one at a time.

    Args:
        title: name of the work, in a word or two.
        total: units of work, in the unit of `done`.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        name, beside = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False)
        with Progress(name, BarColumn(24), TaskProgressColumn(), beside, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total, text="")
            yield lambda done, text: bars.update(task, completed=done, text=text)
        return

    line = _Line(title, total)

    def show(done: int, text: str) -> None:
        if line.write_at is None or time.monotonic() >= line.write_at or done >= total:
            line.write(done, text)
        line.done, line.text = done, text

    with repeated(line.beat):
        yield show


class _Line:
    """A line of progress in a log, which is repeated while nothing new comes."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done, self.text = title, total, 0, "begun"
        self.began = time.monotonic()
        self.write_at: float | None = None  # when the next line is due; None before the first news

    def write(self, done: int, text: str) -> None:
        self.write_at = time.monotonic() + LOG_EVERY
        print(f"{self.title}: {100 * done / self.total:3.0f} %  {text}", file=sys.stderr, flush=True)

    def beat(self) -> None:
        seconds = time.monotonic() - self.began
        if seconds >= LOG_EVERY and time.monotonic() >= (self.write_at or 0.0):
            self.write(self.done, f"{self.text}  (after {seconds:.0f} s)")


@contextmanager
def working(on: str | Callable[[], str]) -> Iterator[None]:
    """Say every five seconds what is being done, for work whose amount is not known; nothing if it takes less.

    Args:
        on: the work, in a few words, or a function that names what of it is being done.
    """
    began = last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY:
            last = time.monotonic()
            print(f"{on if isinstance(on, str) else on()} ({last - began:.0f} s)", file=sys.stderr, flush=True)

    with repeated(beat):
        yield

"""Progress of long work: one line that is redrawn in a terminal, or a plain line every few seconds in a log."""

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
    if done <= 0:
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

    began = time.monotonic()
    shown = {"done": 0, "text": "begun", "at": began}  # the thread below repeats it while nothing new comes

    def write(after: str = "") -> None:
        shown["at"] = time.monotonic()
        print(f"{title}: {100 * shown['done'] / total:3.0f} %  {shown['text']}{after}", file=sys.stderr, flush=True)

    def show(done: int, text: str) -> None:
        first = shown["text"] == "begun"
        shown.update(done=done, text=text)
        if first or time.monotonic() - shown["at"] >= LOG_EVERY or done >= total:
            write()

    def beat() -> None:
        if time.monotonic() - shown["at"] >= LOG_EVERY:
            write(f"  (after {time.monotonic() - began:.0f} s)")

    with repeated(beat):
        yield show


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

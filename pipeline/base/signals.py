"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is finished is kept, and one sentence says so.

Schedulers and service managers end a job by SIGTERM, a closed terminal by SIGHUP. Each becomes the KeyboardInterrupt
that code is written for, or whatever a library has made of SIGINT; only the exit status tells them apart.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)

_received = signal.SIGINT


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP interrupt this process from now on; one that is ignored, as by nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def exit_status() -> int:
    """Return the exit status of an interrupted command: 128 and the number of the signal that ended it."""
    return 128 + _received


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of signals back that a library replaces, which may end the process by sys.exit meanwhile."""
    global _received
    kept = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    except SystemExit as end:
        _received = signal.SIGTERM
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                if handler is not None:
                    signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does, even where a shell in the background has it ignored."""
    global _received
    _received = signal.Signals(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt

"""The threads by which loaders read ahead; other tests of the session may have left some that only garbage holds."""

import gc
import threading
import time


def reading() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "pair-loader"}


def left_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """What began after `before` and has not ended half a minute after the garbage was collected."""
    gc.collect()
    deadline = time.monotonic() + 30
    while reading() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    return reading() - before

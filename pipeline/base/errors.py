"""The two errors by which a job ends early with a sentence for the user."""

import re

LONG = re.compile(r"(\S{100})\S{200,}(\S{50})")


class InputError(ValueError):
    """Bad input: one sentence that names the key, the value and the remedy.

    The commands print it without a traceback and exit with status 2.
    """

    def __init__(self, sentence: str) -> None:
        # A library's message in it may have several lines, and a value of the user's any length.
        super().__init__(LONG.sub(r"\1...\2", " ".join(sentence.splitlines())))


class JobError(RuntimeError):
    """The job failed for a reason that the user can act on; printed without a traceback, exit status 1."""

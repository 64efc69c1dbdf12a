"""The two errors by which a job ends early with a sentence for the user."""


class InputError(ValueError):
    """Bad input: one sentence that names the key, the value and the remedy.

    The commands print it without a traceback and exit with status 2.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.split("\n")))  # a library's message in it may have several lines


class JobError(RuntimeError):
    """The job failed for a reason that the user can act on; printed without a traceback, exit status 1."""

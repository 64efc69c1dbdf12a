"""The two ways in which a job ends early and says so in a sentence."""


class InputError(ValueError):
    """Bad input: one sentence that names the key, the value and the remedy.

    The commands print it without a traceback and exit with status 2.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.split("\n")))  # what a library says inside may have lines of its own


class JobError(RuntimeError):
    """The job failed for a reason that the user can act on; printed without a traceback, exit status 1."""

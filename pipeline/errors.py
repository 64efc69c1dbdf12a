"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Bad input: one sentence that names the key, the value and the remedy.

    The commands print it without a traceback and exit with status 2.
    """

"""Code of the user's own that a configuration names as module:name."""

import importlib
import re
from typing import Any

from flowpairs.pipeline.base.errors import InputError

OWN_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*"
OWN = re.compile(OWN_NAME)


def import_own(key: str, name: str) -> Any:
    """Import what `name` names.

    Args:
        key: the key of the configuration, for the sentence.
        name: module:name, of which OWN is the form.

    Raises:
        InputError: no such module, or nothing of that name in it.
    """
    module, _, inside = name.partition(":")
    try:
        return getattr(importlib.import_module(module), inside)
    except Exception as error:  # a user's module may raise anything
        raise InputError(
            f"{key}={name!r}: cannot be imported ({type(error).__name__}: {error}); put its module where the job runs "
            "or on PYTHONPATH"
        ) from error

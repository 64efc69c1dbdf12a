"""The environment of this process."""

import os


def in_submitted_job() -> bool:
    """Return whether this process is the driver of a `ray job submit`, whose working directory is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ

"""The base of every part of a configuration."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

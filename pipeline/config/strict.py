"""The base of every part of a configuration."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a configuration: immutable, and unknown keys are refused.

    Attributes:
        alternatives: groups of keys of which one is given: an override of one takes the place of what a file gives.
        belonging: a key, and those that mean something for one value of it only: an override that changes it drops
            what a file gives of these. A union told apart by a `discriminator` needs none: the keys that the other
            member does not have are dropped.
    """

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()
    belonging: ClassVar[dict[str, tuple[str, ...]]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True)

"""The base class of every part of a configuration."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a configuration: immutable, and unknown keys are refused.

    Attributes:
        alternatives: groups of keys of which one is given; an override of one replaces what a file gives of its group.
        belonging: keys that have a meaning for only one value of another key: an override that changes that key drops
            what a file gives of these. A union with a `discriminator` needs none: keys that the other member lacks are
            dropped.
    """

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()
    belonging: ClassVar[dict[str, tuple[str, ...]]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True)

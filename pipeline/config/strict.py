"""The base class of every part of a configuration."""

from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


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


def sections_of(field: FieldInfo) -> list[type[Strict]]:
    """List the models of a section: one, also where the section may be null, or the members of a union."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Strict)]

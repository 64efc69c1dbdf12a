"""The state of a loader: where its next batch begins, and what that belongs to.

A position means something only in one order of one store's pairs, so a state also names the store, the seed and the
division of the pairs; a loader that differs in any of them refuses the state, as it would read other pairs from there.
The number of workers is not part of it: batches do not depend on it.
"""

import hashlib
import operator
from collections.abc import Collection, Mapping
from typing import Any

from jaxtyping import Float64
from numpy import ndarray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import digest
from flowpairs.pipeline.store.format import Index, Outline

State = dict[str, Any]  # integers by name, and `store`, a fingerprint
RUN_KEYS = ("arcs", "batch", "epoch", "position", "seed", "store")  # of the loaders of a training run


def check_form(state: Any, keys: Collection[str] = RUN_KEYS) -> State:
    """Check that a state, as read from a checkpoint, has the form of a loader's, and return it.

    Args:
        state: the state to check.
        keys: the keys that it must have.

    Raises:
        InputError: it is not the state of such a loader, or of another version.
    """
    if not isinstance(state, Mapping) or set(state) != set(keys):
        found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise InputError(f"loader state: has {found}, this loader reads {sorted(keys)}; start from the beginning")
    for key in keys:
        value = state[key]
        right = isinstance(value, str) if key == "store" else type(value) is int and (key == "arcs") <= value < 2**63
        if not right:
            raise InputError(f"loader state: {key}={value!r} is no such value; start from the beginning")
    return dict(state)


def check_owner(state: State, own: State) -> None:
    """Refuse a state that belongs to another loader.

    Args:
        state: a state of the right form.
        own: what the loader's own states belong to, by the same keys.

    Raises:
        InputError: a value differs.
    """
    for key, value in own.items():
        if state[key] != value:
            again = "give that store again" if key == "store" else "give the same again"
            raise InputError(
                f"loader state: {key}={state[key]!r}, this loader has {value!r}; {again} or start from the beginning"
            )


def store_fingerprint(index: Index, outline: Outline | None = None) -> str:
    """Compute a hash of the pairs of a store in their order.

    Args:
        index: the store's index.
        outline: the outline of a store that is still being written; its shards are known by the job that writes them.
    """
    sets = {"data": index.data_fingerprint, "source": index.source_fingerprint}
    if outline is None:
        return digest(sets | {"shards": [shard.sha256 for shard in index.shards]})
    return digest(sets | {"config": index.config_hash, "outline": outline.shards})


def potentials_fingerprint(index: Index, g: Float64[ndarray, " ids"]) -> str:
    """Compute a hash of a semi-discrete coupling: of its configuration and the potential of every datum."""
    return digest({"config": index.config_hash, "g": hashlib.sha256(g.data).hexdigest()})


def whole_number(name: str, value: Any, least: int) -> int:
    """Convert an argument to an int, numpy integers included, and check that it is in [least, 2^63).

    Raises:
        InputError: it is not such a number.
    """
    try:
        number = int(operator.index(value))
    except TypeError:
        number = least - 1
    if not least <= number < 2**63:
        raise InputError(f"{name}={value!r}: give a whole number of at least {least}, below 2^63")
    return number

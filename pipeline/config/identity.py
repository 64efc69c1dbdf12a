"""The identity of a configuration: the part that determines the pairs, its hash, and where two of them differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config.couple import CoupleConfig

# The key of each fingerprint, and the key of what it is the fingerprint of.
ORIGINS = {
    "fingerprint": "path",
    "columns_fingerprint": "path",
    "table_fingerprint": "table",
    "matrix_fingerprint": "matrix",
    "condition_fingerprint": "condition_file",
    "start_fingerprint": "start",
    "run_fingerprint": "run",
}


def pin(config: CoupleConfig, found: Mapping[str, str | None]) -> CoupleConfig:
    """Return the config with the fingerprints of what was read.

    Args:
        config: config of a coupling job.
        found: fingerprints by their dotted keys, as "data.fingerprint".

    Raises:
        InputError: the config expects another fingerprint.
    """
    parts: dict[str, dict[str, str | None]] = {}
    for dotted, value in found.items():
        part, _, key = dotted.partition(".")
        expected = getattr(getattr(config, part), key)
        if expected not in (None, value):
            raise InputError(
                f"{dotted}={expected!r}: what was read has {value!r}; mend {part}.{ORIGINS[key]} or remove {dotted}"
            )
        parts.setdefault(part, {})[key] = value
    pinned = {part: getattr(config, part).model_copy(update=values) for part, values in parts.items()}
    return config.model_copy(update=pinned)


def digest(determining: dict[str, Any]) -> str:
    """Compute a 16-digit hash of a configuration's determining part, independent of key order."""
    canonical = json.dumps(determining, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differing(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """List the dotted keys whose values differ between two nested configurations, each with both values."""
    out = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differing(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key} ({b!r} there, {a!r} here)")
    return out


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a nested configuration and their values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

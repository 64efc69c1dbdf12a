"""The rows of a pair store, read by numpy alone as docs/pair-format.md describes them."""

import json
from pathlib import Path

import numpy as np


def stored(store: Path, name: str = "rows") -> np.ndarray:
    """All rows of one side, in model space."""
    manifest = json.loads((store / name / "manifest.json").read_bytes())
    x = np.concatenate([np.load(store / name / part["name"]) for part in manifest["parts"]])
    return x / np.float32(127.5) - np.float32(1) if manifest["dtype"] == "uint8" else x.astype(np.float32)


def column(store: Path, name: str = "label") -> np.ndarray:
    """The label, weight or time of each row."""
    return np.load(store / "rows" / f"{name}.npy")

"""Every file of stores and runs, damaged in every way: each reader reads, or refuses in one sentence, and none hangs.

`make fuzz` tries every combination of a store or run, a file, a damage and a reader; `make test` a part of them.
"""

import json
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.couplings import settings
from support.every_file import DAMAGES_HERE, RUN_READERS, STORE_READERS, fault, files
from support.runs import MLP, train_here

from flowpairs.pipeline.config import validate
from flowpairs.pipeline.couple import couple
from flowpairs.training.config import TrainConfig

STORES: dict[str, dict[str, dict[str, Any]]] = {
    "sinkhorn": {"coupling": {"n": 60, "rel_eps": 0.3}, "output": {"payload": "full"}},
    "exact": {"coupling": {"n": 60, "method": "exact", "rel_eps": None}, "output": {"payload": "seeded"}},
    "independent": {"coupling": {"n": 60, "method": "independent", "rel_eps": None}, "output": {"payload": "ids"}},
    "weighted": {
        "data": {"weight": "w"},
        "coupling": {"n": 60, "rel_eps": 0.3},
        "output": {"payload": "ids"},
        "source": {"kind": "data", "column": "x"},
    },
    "semidiscrete": {
        "coupling": {"n": 60, "method": "semidiscrete", "rel_eps": 0.3, "on_unconverged": "record", "max_passes": 8},
        "output": {"payload": "ids"},
    },
}
EVALUATION = {"samples": 64, "seed": 0, "features": "2 of 2", "curvature": 1.0}
EVALUATION |= {"frechet": [{"solver": "euler", "nfe": 4, "fd": 0.5}]}
ALL = os.environ.get("FLOWPAIRS_TESTS") == "fuzz"
STEP = 1 if ALL else 97  # of the combinations; prime to the number of each
ONCE_FAILED = [(Path("rows/part-00000.npy"), damage, "report") for damage in ("missing", "half", "another array")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One store of each kind, of two blocks, and a finished run."""
    root = tmp_path_factory.mktemp("every-file")
    draws = np.random.default_rng(0)
    x = draws.normal(size=(60, 2)).astype(np.float32)
    np.savez(root / "data.npz", x=x, label=np.arange(60) % 3, w=draws.random(60))
    np.savez(root / "source.npz", x=x + 1)
    found = {}
    for name, given in STORES.items():
        parts = {part: dict(values) for part, values in given.items()}
        parts["data"] = {"path": str(root / "data.npz"), "column": "x", "label": "label"} | parts.get("data", {})
        parts["output"] |= {"pairs": 120, "pairs_per_shard": 60}
        if "source" in parts:
            parts["source"]["path"] = str(root / "source.npz")
        found[name] = root / name / "copy"
        couple(settings(found[name], **parts))
    plain: dict[str, Any] = {"pairs": {"dir": str(found["sinkhorn"])}, "model": MLP}
    plain |= {"output": {"dir": str(root / "run" / "copy")}}
    plain["train"] = {"steps": 20, "batch": 8, "warmup": 1, "log_every": 5}
    found["run"] = train_here(validate(TrainConfig, plain))
    (found["run"] / "checkpoints" / "checkpoint_manager_snapshot.json").write_text('{"step-000000020": ""}')
    (found["run"] / "evaluation.json").write_text(json.dumps(EVALUATION))
    np.savez_compressed(found["run"] / "samples.npz", real=x, euler4=x)
    return found


@pytest.mark.timeout(3600 if ALL else 400)  # 100 seconds each on two idle cores, if it is all
@pytest.mark.parametrize("name", [*STORES, "run"])
def test_a_damaged_file_is_read_or_refused_by_everything(name: str, whole: dict[str, Path], tmp_path: Path) -> None:
    readers = RUN_READERS if name == "run" else STORE_READERS
    for read in readers.values():  # else every damage would be refused for the same reason
        assert fault(whole[name], files(whole[name])[0], "none", read, tmp_path / "work") is None
    cases = list(product(files(whole[name]), DAMAGES_HERE, readers))
    cases = cases[::STEP] + [case for case in ONCE_FAILED if not ALL and name == "sinkhorn"]
    found = []
    for file, damage, reader in cases:
        wrong = fault(whole[name], file, damage, readers[reader], tmp_path / "work")
        if wrong is not None:
            found.append(f"{file} {damage}, {reader}: {wrong}")
    assert found == []
    shutil.rmtree(tmp_path / "work")

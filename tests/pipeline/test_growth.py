"""Growth rates of a chain's data: each is a source as often as it has descendants, and row sets keep the rates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.pipeline.store.verify import verify

TIMES = np.repeat([0.0, 1.0, 3.0], 40)
RATES = np.tile(np.repeat([2.0, 0.5], 20), 3)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 2)).astype(np.float32)
    np.savez(tmp_path / "cells.npz", cells=x, day=TIMES, rate=RATES, none=RATES * 0, huge=RATES * 1e300, w=RATES)
    return tmp_path / "cells.npz"


def settings(cells: Path, directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": str(cells), "column": "cells", "time": "day", "growth": "rate"},
        "source": {"kind": "previous"},
        "coupling": {"n": 1200, "rel_eps": 0.1, "resample": "repeat"},
        "output": {"dir": str(directory), "pairs": 2400, "pairs_per_shard": 1200, "payload": "ids"},
        "cluster": {"actors": 0},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def sources(directory: Path) -> np.ndarray:
    index = format.read_index(directory)
    decoder, found = Decoder(directory, index), []
    for shard in index.shards:
        for _, fields in samples(Path(directory) / "shards" / shard.name):
            found.append(decoder.decode(fields, ["source_ids"])["source_ids"])
    return np.bincount(np.concatenate(found), minlength=120)


@pytest.mark.parametrize("relax", [None, {"target": 1.0}])
def test_data_are_sources_as_often_as_they_have_descendants(cells: Path, tmp_path: Path, relax: dict | None) -> None:
    coupling = {} if relax is None else {"relax": relax, "cost": "sqeuclidean"}
    couple(settings(cells, tmp_path / "pairs", coupling=coupling))
    used = sources(tmp_path / "pairs")
    for time, span in ((0.0, 1.0), (1.0, 2.0)):
        there = time == TIMES
        grown = RATES[there] ** span
        assert np.abs(used[there] - 1200 * grown / grown.sum()).max() <= 1
    assert not used[TIMES == 3].any()
    assert verify(tmp_path / "pairs").faults == recompute(tmp_path / "pairs", 2) == []
    assert (tmp_path / "pairs" / "rows" / "growth.npy").is_file()


def test_a_time_point_left_out_lengthens_the_growth_and_weights_count_too(cells: Path, tmp_path: Path) -> None:
    couple(settings(cells, tmp_path / "pairs", data={"leave_out": [1], "weight": "w"}, output={"pairs": 1200}))
    wanted = RATES[:40] ** 4
    assert np.abs(sources(tmp_path / "pairs")[:40] - 1200 * wanted / wanted.sum()).max() <= 1


def test_refusals(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="growth is that from one time point to the next"):
        settings(cells, tmp_path / "pairs", data={"time": None}, source={"kind": "gaussian"})
    with pytest.raises(InputError, match=r"data\.growth='none': 0 among the rates; give positive"):
        couple(settings(cells, tmp_path / "pairs", data={"growth": "none"}))
    with pytest.raises(InputError, match=r"data\.growth='huge': rates to the power of 2"):
        couple(settings(cells, tmp_path / "pairs", data={"growth": "huge"}))

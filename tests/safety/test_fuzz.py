"""Damaged files of every format that is read: each is read or refused in one sentence, whatever the damage."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import damaged, outcome, tar_of
from torch import nn

from flowpairs.pipeline.base.npy import encode_npy
from flowpairs.pipeline.blocks.feature_store import MAP, load_map, save_map
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.config import CoupleConfig, DataConfig, load
from flowpairs.pipeline.data import check_data, list_pieces, read_piece
from flowpairs.pipeline.data.formats import cells as cell_files
from flowpairs.pipeline.store import block_reports, format
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.config import OptimisationConfig
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shards import ShardReader
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.state import TrainState

CONFORMANCE = Path(__file__).resolve().parents[1] / "conformance"
CONFIG = b"data: {path: digits, label: label}\ncoupling: {n: 400, rel_eps: 0.1}\noutput: {dir: out, pairs: 1_500}\n"
# Each example overwrites the same file; the files lie in one directory a test.
fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
MORE = 3 * fuzzed.max_examples  # where one takes no time

Reader = Callable[[], Any]


def npz(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.npz"
    np.savez_compressed(path, image=np.zeros((5, 4, 4), np.uint8), label=np.arange(5))
    return path, reading(DataConfig(path=str(path), label="label"))


def parquet(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.parquet"
    pq.write_table(pa.table({"x": [[1.0, 2.0]] * 5, "label": list(range(5))}), path)
    return path, reading(DataConfig(path=str(path), column="x", label="label"))


def tar(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.tar"
    members = [
        (f"{i}.{name}", content) for i in range(3) for name, content in (("npy", encode_npy(np.ones(3))), ("cls", b"1"))
    ]
    path.write_bytes(tar_of(*((TarInfo(name), content) for name, content in members)))
    return path, reading(DataConfig(path=str(path), column="npy", label="cls"))


def plain_npy(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.npy"
    np.save(path, np.ones((5, 3), np.float32))
    return path, reading(DataConfig(path=str(path)))


def stored_npz(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.npz"
    np.savez(path, image=np.ones((5, 3), np.float32), label=np.array(["a", "b", "a", "b", "c"]))
    return path, reading(DataConfig(path=str(path), label="label"))


def torch_tensors(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.pt"
    torch.save({"x": torch.ones(5, 3), "y": torch.arange(5)}, path)
    return path, reading(DataConfig(path=str(path), label="y"))


def safe_tensors(directory: Path) -> tuple[Path, Reader]:
    from safetensors.torch import save_file

    path = directory / "a.safetensors"
    save_file({"x": torch.ones(5, 3), "y": torch.arange(5)}, path)
    return path, reading(DataConfig(path=str(path), label="y"))


def arrow(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.arrow"
    table = pa.table({"x": [[1.0, 2.0]] * 5, "y": ["a", "b", "a", "b", "c"]})
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    return path, reading(DataConfig(path=str(path), label="y"))


def csv(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.csv"
    path.write_text("a,b,kind\n" + "1.5,2,ape\n-3,4e2,bee\n" * 3)
    return path, reading(DataConfig(path=str(path), label="kind"))


def csv_gz(directory: Path) -> tuple[Path, Reader]:
    path = directory / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1.5,2\n-3,4e2\n" * 30))
    return path, reading(DataConfig(path=str(path)))


def cells(directory: Path) -> tuple[Path, Reader]:
    import h5py

    path = directory / "a.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((5, 3), np.float32)
        file["obs/kind"] = np.arange(5)
        file["obs"].attrs["column-order"] = ["kind"]
    return path, reading(DataConfig(path=str(path), label="kind"))


def picture(directory: Path) -> tuple[Path, Reader]:
    import PIL.Image

    path = directory / "images" / "1.png"
    path.parent.mkdir()
    for number in range(2):
        PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path.with_name(f"{number}.png"))
    return path, reading(DataConfig(path=str(path.parent)))


def reading(config: DataConfig) -> Reader:
    """Check a data set, and read all of its pieces."""

    def read() -> None:
        spec, bad = check_data(config), []
        for group in list_pieces(config, spec, None, 2):
            for piece in group:
                for _ in read_piece(config, spec, piece, bad):
                    pass

    return read


def config(directory: Path) -> tuple[Path, Reader]:
    path = directory / "config.yaml"
    path.write_bytes(CONFIG)
    return path, lambda: load(CoupleConfig, path)


def feature_map(directory: Path) -> tuple[Path, Reader]:
    save_map(Features(np.zeros(4, np.float32), np.zeros((4, 2), np.float32)), directory)
    return directory / MAP, lambda: load_map(directory)


def blocks(directory: Path) -> tuple[Path, Reader]:
    block_reports.write_blocks(directory, [{"block": 0, "eps": None}, {"block": 1, "eps": 0.5}])
    return directory / "blocks.parquet", lambda: block_reports.read_blocks(directory)


def summary(directory: Path) -> tuple[Path, Reader]:
    path = directory / "train.json"
    of_pairs = {"pairs_dir": "pairs", "method": "exact", "shape": [2], "num_classes": 0, "two_sided": False}
    path.write_text(json.dumps(of_pairs | {"checkpoint": "checkpoints/step-1"}))
    return path, RunDirectory(directory).summary


def checkpoint(directory: Path) -> tuple[Path, Reader]:
    def state() -> TrainState:
        return TrainState.start(nn.Linear(3, 2), OptimisationConfig(steps=10, batch=4))

    state().save(directory)
    return directory / "state.pt", lambda: state().load(directory)


SOURCES = [
    *(npz, stored_npz, plain_npy, torch_tensors, safe_tensors, parquet, arrow, tar, csv, csv_gz, cells, picture),
]


@pytest.mark.parametrize("road", [*SOURCES, config, feature_map, blocks, summary, checkpoint])
def test_a_damaged_file_is_read_or_refused(
    road: Callable[[Path], tuple[Path, Reader]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_files, "PATIENCE", 2)
    examples = fuzzed.max_examples if road is not cells else max(5, fuzzed.max_examples // 10)  # a process for each
    path, read = road(tmp_path)
    whole = path.read_bytes()
    assert outcome(read) is None

    @settings(fuzzed, max_examples=examples)
    @given(damaged(whole))
    def read_or_refused(data: bytes) -> None:
        path.write_bytes(data)
        outcome(read)

    read_or_refused()


@pytest.fixture(params=["full", "seeded", "ids"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFORMANCE / request.param, tmp_path / "store"))


def read_pairs(directory: Path) -> None:
    """What training does with a store."""
    index = format.read_index(directory)
    stretches = [Stretch(number, 0, shard.pairs) for number, shard in enumerate(index.shards)]
    for _ in ShardReader(directory, index, ("x0", "x1", "label")).read(stretches):
        pass


PARTS = {
    "index.json": ("full", "seeded", "ids"),
    "shards/pairs-000000.json": ("full", "seeded", "ids"),
    "rows/manifest.json": ("full", "ids"),
    "rows/part-00000.npy": ("ids",),
    "rows/label.npy": ("ids",),
}


@pytest.mark.parametrize(
    ("store", "name"), [(payload, name) for name, payloads in PARTS.items() for payload in payloads], indirect=["store"]
)
def test_a_damaged_part_of_a_store_is_read_or_refused(store: Path, name: str) -> None:
    path = store / name
    whole = path.read_bytes()

    @fuzzed
    @given(damaged(whole))
    def read_or_refused(data: bytes) -> None:
        path.write_bytes(data)
        outcome(lambda: verify(store))
        outcome(lambda: read_pairs(store))

    read_or_refused()


def test_a_damaged_shard_is_always_refused(store: Path) -> None:
    path = store / "shards" / "pairs-000000.tar"
    whole = path.read_bytes()

    @fuzzed
    @given(damaged(whole).filter(lambda data: data != whole))
    def refused(data: bytes) -> None:
        path.write_bytes(data)
        assert verify(store).faults[0].startswith("pairs-000000.tar: has ")
        assert "remove it with its sidecar" in str(outcome(lambda: read_pairs(store)))

    refused()


def test_a_shard_forged_with_its_hash_is_read_or_refused(store: Path) -> None:
    """Whoever can write the index can make any bytes pass its hash: the tar's own readers must hold."""
    path, index = store / "shards" / "pairs-000000.tar", json.loads((store / "index.json").read_bytes())
    whole = path.read_bytes()

    @fuzzed
    @given(damaged(whole))
    def read_or_refused(data: bytes) -> None:
        path.write_bytes(data)
        index["shards"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (store / "index.json").write_text(json.dumps(index))
        outcome(lambda: verify(store))
        outcome(lambda: read_pairs(store))

    read_or_refused()


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda node: (
        st.lists(node, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "coupling", "output", "n", "path", "dir", "eps", ""]), node, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(fuzzed, max_examples=MORE)
@given(tree=TREES)
def test_any_yaml_of_wrong_types_is_refused(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert outcome(lambda: load(CoupleConfig, path)) is not None  # none of them names both a data path and a pair count


@settings(fuzzed, max_examples=MORE)
@given(text=st.text(alphabet="{}[]&*!<>:-|?,'\"# \n\tab1~${}\\.", max_size=40))
def test_any_text_is_refused_as_a_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert outcome(lambda: load(CoupleConfig, path)) is not None


@settings(fuzzed, max_examples=MORE)
@given(item=st.text(alphabet="${}[]=.,:abn1'\"\\ ", max_size=12))
def test_any_override_is_taken_or_refused(item: str, tmp_path: Path) -> None:
    path, _ = config(tmp_path)
    outcome(lambda: load(CoupleConfig, path, [item]))

"""Files made to do harm: nothing in them is executed, followed, or written outside of where it belongs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import Bomb, outcome, pickled_bomb, tar_of

from flowpairs.pipeline.base import npy
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, DataConfig, check_cost, load
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.data import check_data
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import samples
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shards import ShardReader
from flowpairs.training.report.page import write_report
from flowpairs.training.run.state import read_checkpoint

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits" / "couple.yaml"
CONFORMANCE = Path(__file__).resolve().parents[1] / "conformance"


def everything_below(directory: Path) -> dict[str, str]:
    """All names below a directory, with the hash of each file."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def fuse(tmp_path: Path) -> Path:
    """The file that a bomb creates where it goes off; that it can is checked first."""
    import pickle

    path = tmp_path / "fuse"
    pickle.loads(pickled_bomb(path))
    path.unlink()
    return path


def test_a_checkpoint_that_holds_code_is_refused(fuse: Path, tmp_path: Path) -> None:
    torch.save(
        {"model": {}, "ema": {}, "optimiser": Bomb(fuse), "loader": None, "step": 1, "seconds": 0.0},
        tmp_path / "state.pt",
    )
    refusal = outcome(lambda: read_checkpoint(tmp_path))
    assert "not of tensors alone" in str(refusal)
    (tmp_path / "state.pt").write_bytes(pickled_bomb(fuse))
    assert outcome(lambda: read_checkpoint(tmp_path)) is not None
    assert not fuse.exists()


def test_an_npz_that_holds_code_is_refused(fuse: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, image=np.array([Bomb(fuse)], dtype=object))
    assert "not a plain array" in str(outcome(lambda: check_data(DataConfig(path=str(path)))))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", pickled_bomb(fuse))  # what numpy would unpickle for lack of a header
    assert outcome(lambda: check_data(DataConfig(path=str(path)))) is not None
    path.write_bytes(pickled_bomb(fuse))
    assert outcome(lambda: check_data(DataConfig(path=str(path)))) is not None
    assert not fuse.exists()


def test_a_yaml_that_calls_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for tag in ("object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"):
        path.write_text(f"data: !!python/{tag} [{tmp_path / 'made'}]\n")
        assert "cannot be read as YAML" in str(outcome(lambda: load(CoupleConfig, path)))
    assert not (tmp_path / "made").exists()


def test_a_yaml_of_nested_aliases_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """Nine times nine times ... : 10^19 nodes out of a kilobyte."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    assert "aliases" in str(outcome(lambda: load(CoupleConfig, path)))


@pytest.mark.parametrize("text", ["data: " + "[" * 50_000, "a:\n" + "\n".join(" " * i + "a:" for i in range(1, 999))])
def test_a_yaml_nested_too_deeply_is_refused_before_it_fills_the_stack(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "nested more than 20 levels" in str(outcome(lambda: load(CoupleConfig, path)))
    assert "nested more than 20 levels" in str(
        outcome(lambda: load(CoupleConfig, CONFIG, ["data.path=" + "[" * 50_000]))
    )


STRANGER = """
data: {path: "${oc.env:HOME}"}
coupling: {n: 10, cost: "evil:f"}
output: {dir: elsewhere, pairs: 10}
"""


def test_a_store_that_names_code_and_secrets_is_only_read(
    fuse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is at hand, and goes off where a coupling would import it."""
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(fuse)!r}).touch()\ndef f(x, y): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = Path(shutil.copytree(CONFORMANCE / "full", tmp_path / "store"))
    (store / "config.yaml").write_text(STRANGER)
    assert load(CoupleConfig, store / "config.yaml").data.path == "${oc.env:HOME}"
    assert read_status(store).pairs == 10
    assert verify(store).faults == []
    write_report([store], tmp_path / "report.html")
    assert convert(store, tmp_path / "seeded", "seeded").pairs == 10
    assert "give --import-cost if you trust it" in str(outcome(lambda: recompute(store, 1)))
    assert not fuse.exists()
    check_cost(load(CoupleConfig, store / "config.yaml"))
    assert fuse.exists()


def test_a_cost_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_cost.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cost, says in {
        "broken_cost:f": "cannot be imported (ZeroDivisionError",
        "absent_cost:f": "cannot be imported (ModuleNotFoundError",
        "math:absent": "cannot be imported (AttributeError",
        "math:pi": "is no function",
    }.items():
        config = load(CoupleConfig, CONFIG, [f"coupling.cost={cost}"])
        assert f"coupling.cost={cost!r}: {says}" in str(outcome(partial(check_cost, config)))
    for cost in ("..x:f", "x:", ":f", "x y:f", "x:f.g", "euclid"):
        refusal = outcome(partial(load, CoupleConfig, CONFIG, [f"coupling.cost='{cost}'"]))
        assert "unknown; give dot, sqeuclidean" in str(refusal)


def forge(directory: Path, shard: bytes) -> Path:
    """A store whose only shard is `shard`, with the hash to match."""
    store = Path(shutil.copytree(CONFORMANCE / "full", directory / "inside" / "store"))
    (store / "shards" / "pairs-000000.tar").write_bytes(shard)
    tree = json.loads((store / "index.json").read_bytes())
    tree["shards"] = [tree["shards"][0] | {"bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()}]
    (store / "index.json").write_text(json.dumps(tree))
    return store


def train_on(store: Path) -> None:
    index = format.read_index(store)
    reader = ShardReader(store, index, ("x0", "x1", "label"))
    for _ in reader.read([Stretch(0, 0, index.shards[0].pairs)]):
        pass


def linked(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


KEY = "b000000-r000000000"


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped.x1.npy",
        "/tmp/escaped-by-flowpairs.x1.npy",
        f"../{KEY}.x1.npy",
        "a/../../../b.x1.npy",
        f"{KEY}.pyd",
    ],
)
def test_a_shard_whose_names_lead_elsewhere_writes_nothing_there(name: str, fuse: Path, tmp_path: Path) -> None:
    store = forge(tmp_path, tar_of((tarfile.TarInfo(name), pickled_bomb(fuse))))
    before = everything_below(tmp_path)
    assert verify(store).faults
    assert outcome(lambda: train_on(store)) is not None
    assert everything_below(tmp_path) == before
    assert not Path("/tmp/escaped-by-flowpairs.x1.npy").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_shard_of_links_and_devices_is_refused(kind: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.npy"
    secret.write_bytes(npy.encode_npy(np.ones((4, 1, 3, 4), np.float32)))
    store = forge(tmp_path, tar_of((linked(f"{KEY}.x1.npy", str(secret), kind), b"")))
    assert "is no plain file" in " ".join(verify(store).faults)
    assert outcome(lambda: train_on(store)) is not None


def test_fields_that_would_be_unpickled_are_passed_over(fuse: Path, tmp_path: Path) -> None:
    """Beside the named fields a record may hold others; they are not so much as looked at."""
    whole = CONFORMANCE / "full" / "shards" / "pairs-000001.tar"
    ((key, fields),) = samples(whole)
    fields |= {"pyd": pickled_bomb(fuse), "pickle": pickled_bomb(fuse), "pth": pickled_bomb(fuse)}
    store = forge(tmp_path, tar_of(*((tarfile.TarInfo(f"{key}.{name}"), data) for name, data in fields.items())))
    tree = json.loads((store / "index.json").read_bytes())
    tree["shards"][0] |= {"pairs": 2, "records": 1}
    (store / "index.json").write_text(json.dumps(tree))
    train_on(store)
    assert not fuse.exists()


@pytest.mark.parametrize("name", ["../../outside.tar", "/etc/passwd", "pairs-000000.tar/../../x", "pairs-000000.tar\n"])
def test_an_index_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    store = forge(tmp_path, b"x" * 512)
    tree = json.loads((store / "index.json").read_bytes())
    tree["shards"][0]["name"] = name
    (store / "index.json").write_text(json.dumps(tree))
    assert "shards.0.name" in str(outcome(lambda: format.read_index(store)))


def test_a_data_tar_of_links_and_foreign_names_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    path.write_bytes(
        tar_of(
            (linked("0.npy", "/etc/passwd", tarfile.SYMTYPE), b""),
            (tarfile.TarInfo("../../1.npy"), npy.encode_npy(np.ones(3))),
        )
    )
    before = everything_below(tmp_path)
    assert check_data(DataConfig(path=str(path), column="npy")).rows == 1
    assert everything_below(tmp_path) == before


def test_a_sparse_member_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    """A GNU sparse header of 512 bytes that claims 8 GiB of zeros."""
    whole = bytearray(tar_of((tarfile.TarInfo("0.npy"), b"")))
    whole[156:157] = tarfile.GNUTYPE_SPARSE
    whole[257:265] = tarfile.GNU_MAGIC
    whole[483:495] = b"%011o\0" % (2**33 - 1)
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    path = tmp_path / "data.tar"
    path.write_bytes(whole)
    assert "is no plain file" in str(outcome(lambda: check_data(DataConfig(path=str(path), column="npy"))))
    assert "is no plain file" in str(outcome(lambda: list(samples(path))))


def test_sizes_that_send_tarfile_in_circles_are_refused(tmp_path: Path) -> None:
    """A negative size in base 256, with which the next header is the same one again (CVE-2025-8194)."""
    whole = bytearray(tar_of(*((tarfile.TarInfo(f"{i}.npy"), npy.encode_npy(np.ones(3))) for i in range(2))))
    path, header = tmp_path / "data.tar", slice(1024, 1536)
    for size in (-512, -1024, -1536, 2**62):
        forged = bytearray(whole[header])
        forged[124:136] = bytes([255 if size < 0 else 128]) + (size % 256**11).to_bytes(11, "big")
        forged[148:156] = b" " * 8
        forged[148:156] = b"%06o\0 " % sum(forged)
        whole[header] = forged
        path.write_bytes(whole)
        assert outcome(lambda: check_data(DataConfig(path=str(path), column="npy"))) is not None
        assert outcome(lambda: list(samples(path))) is not None


def test_an_array_that_claims_more_than_the_memory_is_refused_at_once(tmp_path: Path) -> None:
    """In a process that may not have more than 8 GiB of addresses, where 4 TiB are claimed."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with pytest.raises(ValueError, match="64 bytes, where its header promises"):
        npy.decode_npy(forged)
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("image.npy", forged)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "from flowpairs.pipeline.config import DataConfig; from flowpairs.pipeline.data import check_data\n"
        "from flowpairs.pipeline.base.errors import InputError\n"
        "try:\n    check_data(DataConfig(path=sys.argv[1]))\nexcept InputError as error:\n    print('refused', error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data.npz")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.stdout.startswith("refused data.column='image'") or done.stdout.startswith("refused data.path=")


FIELDS = "'fortran_order': False, 'shape': (4,)"


@pytest.mark.parametrize(
    "header",
    [
        "-" * 9000 + "1",
        "[" * 9000,
        "1+" * 4000 + "1",
        "{'a':" * 90,
        f"{{'descr': {'-' * 9000}1, {FIELDS}, }}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999999,), }",
        f"{{'descr': '>f4', {FIELDS}, }}",
        f"{{'descr': [('a', '<f4')], {FIELDS}, }}",
        f"{{'descr': '|O8', {FIELDS}, }}",
        f"{{'descr': __import__('os').getpid(), {FIELDS}, }}",
        " " * 65_000,
    ],
    ids=range(13),
)
def test_a_forged_header_is_refused_without_being_parsed(header: str) -> None:
    """Several of these end Python's own parser in a MemoryError or a RecursionError."""
    text = header.encode() + b"\n"
    with pytest.raises(ValueError, match=r"not a plain .npy array|not an array of numbers|bytes, where"):
        npy.decode_npy(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16))


DTYPES = st.sampled_from(["<f4", "<f8", "<i8", "<u8", "<u4", "|u1", "|i1", "<i2"])


@given(dtype=DTYPES, shape=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 9))
def test_plain_arrays_come_through_as_numpy_reads_them(dtype: str, shape: list[int], seed: int) -> None:
    import io

    values = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    data = npy.encode_npy(values)
    np.testing.assert_array_equal(npy.decode_npy(data), np.load(io.BytesIO(data)))
    buffer = io.BytesIO()
    np.save(buffer, values)
    assert data == buffer.getvalue()


@pytest.mark.parametrize(
    "values", [np.array([None]), np.array(["a"]), np.array([1 + 2j]), np.asfortranarray(np.ones((2, 3)))]
)
def test_arrays_of_anything_else_are_refused(values: np.ndarray) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values)
    with pytest.raises(ValueError, match=r"npy|bytes, where"):
        npy.decode_npy(buffer.getvalue())


def test_a_sentence_stays_one_line() -> None:
    assert str(InputError("first\nsecond")) == "first second"

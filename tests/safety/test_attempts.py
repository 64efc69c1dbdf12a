"""The written list of attempts on whoever reads a store, a run, a config or a data set that a stranger made.

| attempt | test |
|---|---|
| code in pickles: checkpoints, .npz, .npy | test_hostile.py: *holds_code*, *unpickled*; here: pickles in every array |
| code by a YAML tag, by a cost named module:function | test_hostile.py: *calls_python*, *names_code*; here: commands |
| secrets by interpolation, `${oc.env:...}` | test_hostile.py: *secrets*; here: of a run |
| paths that lead out: shards, records, data tars | test_hostile.py: *lead_elsewhere*, *names_files_elsewhere* |
| paths that lead out: sidecars, checkpoints of a run | here: *sidecar*, *checkpoint* |
| links in tars; links in a store that lead out | test_hostile.py: *links*; here: *links_lead_out* |
| bombs: YAML aliases and nesting | test_hostile.py: *aliases*, *nested* |
| bombs: zip, PNG, sparse tar, circular tar | here: *inflates*, *png*; test_hostile.py: *sparse*, *circles* |
| huge counts in headers | test_hostile.py: *claims_more*, *forged_header* |
| huge counts in the index, outline, sidecars and records | here: *huge_counts* |
| HTML and scripts in what a report shows | here: *report* |
| commands to the terminal in names, configs and files | here: *terminal* |
| files that are devices, FIFOs, directories or damaged | test_every_file.py |
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from support.damage import outcome, pickled_bomb
from support.runs import MLP, write_run
from typer.testing import CliRunner

from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import CoupleConfig, DataConfig, load, validate
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.data import check_data
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.config import TrainConfig
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.report.page import write_report
from flowpairs.training.run.directory import check_run
from flowpairs.training.run.initial_weights import read_init
from flowpairs.training.run.trained import read_finished

CONFORMANCE = Path(__file__).resolve().parents[1] / "conformance"
CONFIG = """
data: {path: "%s", column: image}
coupling: {n: 10, method: imported, rel_eps: null, table: none.npz}
output: {dir: elsewhere, pairs: 10}
"""
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(params=["full", "seeded", "ids"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(CONFORMANCE / request.param, tmp_path / "store"))
    (copy / "config.yaml").write_text(CONFIG % "nowhere.npz")
    return copy


def edit(path: Path, change: Callable[[Any], None]) -> None:
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree))


def check_training(store: Path) -> None:
    plain = {"pairs": {"dir": str(store)}, "model": {"kind": "mlp"}, "train": {"steps": 9, "batch": 2, "warmup": 1}}
    check_run(validate(TrainConfig, plain | {"output": {"dir": str(store.parent / "run")}}))


def read_everything(store: Path) -> list[str]:
    """What all readers of a store say; any other exception than a refusal goes on."""
    said: list[str] = []
    for read in (
        read_status,
        lambda store: said.extend(verify(store).faults),  # noqa: B023 - called at once
        check_training,
        lambda store: PairDataset(store)[:],
        lambda store: convert(store, store.parent / "converted", "full"),
        lambda store: write_report([store], store.parent / "report.html"),
    ):
        found = outcome(partial(read, store))
        said += [] if found is None else [found]
    return said


HUGE = 2**62
COUNTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "pairs": ("index.json", lambda tree: tree.update(pairs=HUGE)),
    "shape": ("index.json", lambda tree: tree.update(shape=[2**40, 2**40])),
    "classes": ("index.json", lambda tree: tree.update(num_classes=HUGE)),
    "bytes of a shard": ("index.json", lambda tree: tree["shards"][0].update(bytes=HUGE)),
    "pairs of a shard": ("index.json", lambda tree: tree["shards"][0].update(pairs=HUGE, records=HUGE)),
    "block of a shard": ("index.json", lambda tree: tree["shards"][0].update(block=HUGE)),
    "beyond 64 bits": ("index.json", lambda tree: tree["shards"][0].update(pairs=10**30)),
    "sidecar": (
        "shards/pairs-000000.json",
        lambda tree: tree["shard"].update(block=HUGE, pairs=HUGE, records=HUGE, bytes=HUGE),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_huge_counts_ask_for_no_memory(store: Path, name: str) -> None:
    """In a process of limited memory each of them would be a MemoryError, which no reader turns into a sentence."""
    import resource

    file, change = COUNTS[name]
    edit(store / file, change)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    try:
        said = read_everything(store)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert said


def test_huge_counts_in_an_outline_ask_for_no_memory(store: Path) -> None:
    index = json.loads((store / "index.json").read_bytes())
    (store / "index.json").unlink()
    outline = {"index": index | {"shards": [], "pairs": HUGE, "shape": [2**40]}, "shards": [[HUGE, HUGE]]}
    (store / "outline.json").write_text(json.dumps(outline))
    plain = {"pairs": {"dir": str(store), "source": "stream"}, "model": {"kind": "mlp"}}
    plain |= {"train": {"steps": 9, "batch": 2, "warmup": 1}, "output": {"dir": str(store.parent / "run")}}
    outcome(lambda: check_run(validate(TrainConfig, plain)))
    outcome(lambda: read_status(store))


def test_a_sidecar_that_names_another_path_is_refused(store: Path) -> None:
    edit(store / "shards" / "pairs-000000.json", lambda tree: tree["shard"].update(name="../../../etc/passwd"))
    assert "shard.name" in str(outcome(lambda: read_status(store)))
    assert any("pairs-000000" in fault for fault in verify(store).faults)


def test_links_lead_out_of_a_store_to_nothing_that_passes(store: Path, tmp_path: Path) -> None:
    """A shard may lie elsewhere, but only with the bytes that the index promises; nothing is written through a link."""
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    for path in (store / "shards" / "pairs-000000.tar", store / "shards" / "pairs-000001.json"):
        path.unlink()
        path.symlink_to(secret)
    said = " ".join(read_everything(store))
    assert "not yours" not in said
    assert "pairs-000000.tar" in said
    assert secret.read_text() == "not yours"


def test_a_report_is_not_written_through_a_link(store: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    (store / "report.html").symlink_to(secret)
    write_report([store])
    assert secret.read_text() == "not yours"
    assert not (store / "report.html").is_symlink()


def inflating(path: Path, size: int) -> Path:
    """An .npz whose one array is zeros of `size` bytes; the file has a thousandth of that."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % size
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive, archive.open("real.npy", "w", force_zip64=True) as member:
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    return path


def test_an_archive_that_inflates_beyond_the_memory_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowpairs.pipeline.base import npy
    from flowpairs.pipeline.blocks.feature_store import load_map
    from flowpairs.pipeline.store.checkpoints import load_checkpoint

    monkeypatch.setattr(npy, "available_memory", lambda: 2**22)
    run = tmp_path / "run"
    write_run(run, MLP, (2,))
    inflating(run / "samples.npz", 2**23)
    shutil.copy(run / "samples.npz", tmp_path / "map.npz")
    assert (run / "samples.npz").stat().st_size < 2**16
    for read in (
        lambda: load_map(tmp_path),
        lambda: load_checkpoint(tmp_path / "map.npz"),
        lambda: npy.load_npz(io.BytesIO((tmp_path / "map.npz").read_bytes())),
    ):
        with pytest.raises(ValueError, match="bytes of memory are free"):
            read()
    metrics(run)
    assert "bytes of memory are free" in str(outcome(lambda: write_report([run], tmp_path / "report.html")))


def test_a_png_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    (tmp_path / "images" / "a").mkdir(parents=True)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "images" / "a" / "0.png").write_bytes(data)
    assert "0.png" in str(outcome(lambda: check_data(DataConfig(path=str(tmp_path / "images")))))


def test_pickles_in_place_of_arrays_are_not_loaded(tmp_path: Path) -> None:
    """By a matrix, a table, conditions, initial weights and the weights of an export."""
    fuse = tmp_path / "fuse"
    np.savez(tmp_path / "data.npz", image=np.zeros((10, 2), np.float32))
    for name in ("bomb.npy", "bomb.npz"):
        (tmp_path / name).write_bytes(pickled_bomb(fuse))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.safetensors").write_bytes(pickled_bomb(fuse))
    output = {"dir": str(tmp_path / "out"), "pairs": 10}
    for coupling in (
        {"n": 10, "method": "exact", "rel_eps": None, "cost": "precomputed", "matrix": str(tmp_path / "bomb.npy")},
        {"n": 10, "method": "imported", "rel_eps": None, "table": str(tmp_path / "bomb.npz")},
        {
            "n": 10,
            "method": "semidiscrete",
            "condition": "extended",
            "beta": 1.0,
            "condition_file": str(tmp_path / "bomb.npy"),
        },
    ):
        tree: dict[str, Any] = {"data": {"path": str(tmp_path / "data.npz")}, "coupling": coupling, "output": output}
        tree |= {"cluster": {"actors": 0}}
        if "matrix" in coupling:
            tree["source"] = {"kind": "data"} | tree["data"]
        with pytest.raises(InputError, match=r"bomb\.np"):
            couple(validate(CoupleConfig, tree))
    assert "safetensors cannot be read" in str(outcome(lambda: read_init(str(tmp_path / "export"))))
    assert not fuse.exists()


def test_a_checkpoint_outside_of_its_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", MLP, (2,))
    write_run(tmp_path / "other", MLP, (2,))
    for there in ("../other/checkpoints/step-000000010", str(tmp_path / "other" / "checkpoints" / "step-000000010")):
        edit(tmp_path / "run" / "train.json", lambda tree, there=there: tree.update(checkpoint=there))
        assert "train.json: not the summary of a run" in str(outcome(lambda: read_finished(tmp_path / "run")))


def test_a_run_that_names_secrets_is_only_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    write_run(tmp_path / "run", MLP, (2,), pairs="${oc.env:SECRET}")
    assert load(TrainConfig, tmp_path / "run" / "config.yaml").pairs.dir == "${oc.env:SECRET}"
    metrics(tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "hunter2" not in page
    assert "${oc.env:SECRET}" in page


class Tags(HTMLParser):
    """The tags and the event handlers of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.handlers = set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def metrics(run: Path, **changes: Any) -> None:
    """Make a run that nothing trained one that a report can show."""
    given = {"steps": 10, "batch": 8, "workers": 1, "loss": 0.5, "seconds": 1.0, "samples_per_s": 1.0, "data_wait": 0.0}
    edit(run / "train.json", lambda tree: tree.update(given | changes))


def test_a_report_shows_a_strangers_names_as_text(tmp_path: Path) -> None:
    name = EVIL.replace("/", "∕")
    runs = [tmp_path / f"{name} {number}" for number in range(2)]
    for number, run in enumerate(runs):
        write_run(run, MLP, (2,), pairs=f"{EVIL}{number}", method=EVIL)
        metrics(run, pairs_dir=f"javascript:alert(1){EVIL}")
        figures = {"samples": 64, "seed": 0, "features": EVIL, "curvature": 1.0}
        figures |= {"frechet": [{"solver": EVIL, "nfe": 4, "fd": 0.5}]}
        (run / "evaluation.json").write_text(json.dumps(figures))
        np.savez_compressed(
            run / "samples.npz", **{"real": np.zeros((4, 2)), "euler4 <svg onload=alert(3)>": np.ones((4, 2))}
        )
    store = tmp_path / f"{name} store"
    shutil.copytree(CONFORMANCE / "full", store)
    edit(store / "index.json", lambda tree: tree.update(method=EVIL, convention=EVIL, data_fingerprint=EVIL))
    (store / "config.yaml").write_text(f"data: {{path: '{EVIL}', label: '{EVIL}'}}\n")
    page = write_report([store, *runs], tmp_path / "report.html").read_text()
    seen = Tags()
    seen.feed(page)
    assert "script" not in seen.tags
    assert seen.handlers == []
    assert "&lt;script&gt;" in page


COMMANDS = {
    "status": ["status", "{store}"],
    "status of a run": ["status", "{run}"],
    "verify": ["verify", "{store}"],
    "report": ["report", "{store}", "--output", "{root}/r.html"],
    "convert": ["convert", "{store}", "{root}/converted", "--payload", "full"],
    "plan": ["plan", "{store}/config.yaml"],
    "couple": ["couple", "{store}/config.yaml"],
    "train": ["train", "{run}/config.yaml"],
    "evaluate": ["evaluate", "{run}"],
    "sample": ["sample", "{run}", "--output", "{root}/x.npz", "--solver", "euler", "--steps", "2"],
}


FIRST = ("status", "verify", "report")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.nightly) for name in COMMANDS]
)
def test_nothing_that_a_stranger_wrote_reaches_the_terminal_as_a_command(name: str, tmp_path: Path) -> None:
    """In a process of its own, as what is printed at its end is printed by the command's own frame."""
    root = tmp_path / ESCAPE
    store = Path(shutil.copytree(CONFORMANCE / "full", root / "store"))
    (store / "config.yaml").write_text(
        json.dumps(
            {
                "data": {"path": f"{ESCAPE}.npz", "column": ESCAPE},
                "coupling": {"n": 10, "cost": "evil:f"},
                "output": {"dir": str(root / "out"), "pairs": 10},
                "cluster": {"actors": 0},
            }
        )
    )
    edit(store / "index.json", lambda tree: tree.update(method=ESCAPE, convention=ESCAPE))
    (store / "shards" / f"{ESCAPE}.tar").write_bytes(b"x")
    run = root / "run"
    write_run(run, MLP, (2,), pairs=f"{ESCAPE}pairs", method=ESCAPE)
    command = [word.format(store=store, run=run, root=root) for word in COMMANDS[name]]
    done = subprocess.run(
        [sys.executable, "-m", "flowpairs.jobs.cli", *command],
        capture_output=True, text=True, check=False, env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}, cwd=tmp_path,
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr


def test_no_command_that_reads_a_store_imports_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = tmp_path / "fuse"
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(fuse)!r}).touch()\ndef f(x, y): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = Path(shutil.copytree(CONFORMANCE / "full", tmp_path / "store"))
    (store / "config.yaml").write_text(
        (CONFIG % "x.npz").replace("method: imported", "cost: 'evil:f', method: exact").replace(", table: none.npz", "")
    )
    write_run(tmp_path / "run", MLP, (2,), pairs=str(store))
    runner, app = CliRunner(), application()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for words in (
        ["status", str(store)],
        ["verify", str(store)],
        ["verify", str(store), "--deep", "1"],
        ["convert", str(store), str(tmp_path / "converted"), "--payload", "seeded"],
        ["report", str(store)],
        ["evaluate", str(tmp_path / "run")],
        ["export", str(tmp_path / "run"), str(tmp_path / "exported"), "--license", "mit"],
    ):
        ended = runner.invoke(app, words)
        assert isinstance(ended.exception, InputError | JobError | SystemExit | None), (words, ended.exc_info)
    check_training(Path(shutil.copytree(store, tmp_path / "apart" / "store")))
    PairDataset(store)[:]
    assert not fuse.exists()

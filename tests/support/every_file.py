"""Every file of a store or a run, damaged in every way, and every reader that may come upon it."""

import contextlib
import io
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from flowpairs.jobs.status import status
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import CoupleConfig, load, validate
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import read_index
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.config import EvaluateConfig, SampleConfig, TrainConfig
from flowpairs.training.export.write import export
from flowpairs.training.pairs.assigner import Assigner
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.pairs.endpoints import read_endpoints
from flowpairs.training.report.page import write_report
from flowpairs.training.run.directory import check_pairs, check_run
from flowpairs.training.run.initial_weights import pin_init
from flowpairs.training.run.trained import read_finished
from flowpairs.training.sample import sample

PATIENCE = 60  # seconds after which a reader hangs, at a FIFO or a device without an end


class Hang(BaseException):
    """What no reader catches, as some catch every `Exception`."""


MEMORY = 4 * 2**30

Damage = Callable[[Path], object]
Reader = Callable[[Path], object]


def _replace(path: Path, put: Callable[[], object]) -> None:
    path.unlink()
    put()


def _rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)


DAMAGES: dict[str, Damage] = {
    "none": lambda path: None,
    "missing": Path.unlink,
    "empty": lambda path: _rewrite(path, b""),
    "half": lambda path: _rewrite(path, path.read_bytes()[: path.stat().st_size // 2]),
    "one byte": lambda path: _rewrite(path, path.read_bytes()[:1]),
    "zeros": lambda path: _rewrite(path, bytes(path.stat().st_size)),
    "longer": lambda path: _rewrite(path, path.read_bytes() + b"{}\n"),
    "flip at the start": lambda path: _flip(path, 0),
    "flip early": lambda path: _flip(path, 0.2),
    "flip in the middle": lambda path: _flip(path, 0.5),
    "flip late": lambda path: _flip(path, 0.9),
    "a directory": lambda path: _replace(path, path.mkdir),
    "a FIFO": lambda path: _replace(path, lambda: os.mkfifo(path)),
    "/dev/zero": lambda path: _replace(path, lambda: path.symlink_to("/dev/zero")),
    "/dev/null": lambda path: _replace(path, lambda: path.symlink_to("/dev/null")),
    "a link to itself": lambda path: _replace(path, lambda: path.symlink_to(path.name)),
    "a link to nothing": lambda path: _replace(path, lambda: path.symlink_to("nowhere")),
    "a number": lambda path: _rewrite(path, b"7\n"),
    "a list": lambda path: _rewrite(path, b"[1, {}]\n"),
    "an object": lambda path: _rewrite(path, b"{}\n"),
    "nested": lambda path: _rewrite(path, b"[" * 100_000),
    "text": lambda path: _rewrite(path, b"\xff\xfe\x00 no text \x1b[31m\n"),
    "another array": lambda path: _rewrite(path, _npy()),
    "unreadable": lambda path: path.chmod(0),
}
DAMAGES_HERE = [name for name in DAMAGES if name != "unreadable" or os.geteuid() != 0]


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 5), np.int16))
    return buffer.getvalue()


def _check_training(store: Path) -> None:
    kind = "semidiscrete:" if read_index(store).method == "semidiscrete" else ""
    plain = {"pairs": f"{kind}{store}", "model": {"kind": "mlp"}, "train": {"steps": 9, "batch": 8, "warmup": 1}}
    check_run(validate(TrainConfig, plain | {"output": {"dir": str(store.parent / "new")}}))


def _stream(store: Path) -> None:
    plain = {"pairs": {"dir": str(store), "source": "stream"}, "model": {"kind": "mlp"}}
    plain |= {"train": {"steps": 9, "batch": 8, "warmup": 1}, "output": {"dir": str(store.parent / "new")}}
    check_run(validate(TrainConfig, plain))


def _assign(store: Path) -> None:
    assigner = Assigner(store)
    shape = assigner._store.index.shape
    labels = torch.zeros(4, dtype=torch.int64) if assigner._store.assigner.conditions.labels is not None else None
    assigner(torch.zeros(4, *shape), labels=labels)


def _couple(store: Path) -> None:
    couple(load(CoupleConfig, store / "config.yaml"))


STORE_READERS: dict[str, Reader] = {
    "status": lambda store: status(str(store)),
    "verify": verify,
    "convert": lambda store: convert(store, store.parent / "converted", "full"),
    "train": _check_training,
    "stream": _stream,
    "report": lambda store: write_report([store], store.parent / "report.html"),
    "PairDataset": lambda store: PairDataset(store)[:4],
    "Assigner": _assign,
    "couple": _couple,
}


def _evaluate(run: Path) -> None:
    """What `flowpairs evaluate` reads, without Ray."""
    trained = read_finished(run)
    index = check_pairs(trained.config.pairs.model_copy(update={"dir": trained.pairs}))
    read_endpoints(trained.pairs, index, EvaluateConfig(samples=64))
    trained.network(torch.device("cpu"))


def _train_on(run: Path) -> None:
    check_run(load(TrainConfig, run / "config.yaml"))


def _init(run: Path) -> None:
    config = validate(
        TrainConfig,
        {"pairs": "nowhere", "model": {"kind": "mlp"}, "train": {"steps": 9, "init": str(run)}, "output": {"dir": "x"}},
    )
    pin_init(config)


RUN_READERS: dict[str, Reader] = {
    "status": lambda run: status(str(run)),
    "train": _train_on,
    "train.init": _init,
    "evaluate": _evaluate,
    "report": lambda run: write_report([run], run.parent / "report.html"),
    "sample": lambda run: sample(run, SampleConfig(samples=2, solver="euler", steps=2), run.parent / "drawn.npz"),
    "export": lambda run: export(run, run.parent / "exported", "mit"),
}


def files(directory: Path) -> list[Path]:
    """The files below a directory, relative to it; of shards the first two with their sidecars."""
    found = [path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in found if path.parts[0] != "shards" or path.stem in ("pairs-000000", "pairs-000001")]


@contextmanager
def patience(seconds: int = PATIENCE) -> Iterator[None]:
    """Raise where the block hangs, or takes MEMORY bytes more than there were, as from a device without an end."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def fault(whole: Path, file: Path, damage: str, reader: Reader, directory: Path) -> str | None:
    """What is wrong with how a reader takes a damaged copy of a store or run; None where nothing is."""
    shutil.rmtree(directory, ignore_errors=True)
    copy = Path(shutil.copytree(whole, directory / "copy"))
    DAMAGES[damage](copy / file)
    try:
        with patience(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader(copy)
    except (InputError, JobError) as error:
        sentence = str(error)
        return f"no sentence: {sentence!r}" if "\n" in sentence or not 10 < len(sentence) < 1500 else None
    except BaseException as error:
        frames: Any = error.__traceback__
        while frames.tb_next:
            frames = frames.tb_next
        return f"{type(error).__name__}: {error} ({frames.tb_frame.f_code.co_filename}:{frames.tb_lineno})"
    return None

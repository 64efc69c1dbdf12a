"""Malformed and extreme configurations of every command: each is carried out, or refused in one sentence.

    python tests/safety/config_fuzz.py [--cases 10000] [--seed 0]

Every key of every part gets values of every type and extreme, one or two at a time, on small jobs that differ in what
they couple. A case is a fault if it ends in anything but success, an InputError or a JobError, if the sentence has
several lines, if a refused configuration left results behind, or if it takes longer than LIMIT seconds. Jobs run
without Ray, and may take MEMORY bytes.
"""

import argparse
import contextlib
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, "tests")

import numpy as np
import yaml
from pydantic import BaseModel
from support.runs import MLP, write_run

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.store.resume import has_results
from flowpairs.training.config import TrainConfig

LIMIT = 30  # seconds
MEMORY = 12 * 2**30
LONGEST = 1500  # characters of a sentence
STORE = "store"  # the pairs that trainings read

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 60, 61, 1000, 2**31, 2**40, 2**63, 2**64, 10**30, -(2**63),
    0.0, -0.0, 0.5, 0.999999, 1.0, 1.5, -0.1, 1e-12, 1e-300, 5e-324, 1e300, float("inf"), float("-inf"), float("nan"),
    "", "x", "auto", "none", "label", "image", "dot", "exact", "sinkhorn", "semidiscrete", "independent", "imported",
    "reflow", "euler",
    "class", "extended", "balanced", "backward", "ids", "seeded", "repeat", "record", "gaussian", "data", "previous",
    "../x", "a/b", "/proc/x", "/dev/null/x", "memory://x/y", "s9://x", "file:relative", "os:getcwd", "a:b:c",
    "ü[/]\x1b[31m", "x" * 300, "x" * 5000, "6:00", "1_000", "0x10", "~", [], [1], ["a", "b"], [[1]], [None], [2, 1],
    {}, {"a": 1}, {"kind": "data"},
]  # fmt: skip


def bases(data: Path) -> dict[str, dict[str, Any]]:
    """Small jobs, each with another kind of coupling."""
    noise = {"data": {"path": str(data / "d.npz"), "column": "x"}, "cluster": {"actors": 0}}
    two = noise | {"source": {"kind": "data", "path": str(data / "e.npz"), "column": "x"}}
    return {
        "sinkhorn": noise | {"coupling": {"n": 30, "rel_eps": 0.2}, "output": {"pairs": 60}},
        "regions": noise | {"coupling": {"n": 30, "rel_eps": 0.2, "regions": 3}, "output": {"pairs": 60}},
        "sharpness": noise | {"coupling": {"n": 60, "sharpness": 0.5}, "output": {"pairs": 60, "payload": "ids"}},
        "exact": noise | {"coupling": {"n": 30, "method": "exact"}, "output": {"pairs": 60, "payload": "seeded"}},
        "independent": noise | {"coupling": {"n": 30, "method": "independent"}, "output": {"pairs": 60}},
        "semidiscrete": noise
        | {"coupling": {"n": 30, "method": "semidiscrete", "max_passes": 8, "on_unconverged": "record"}}
        | {"output": {"pairs": 60}},
        "two-sided": two | {"coupling": {"n": 30, "rel_eps": 0.2}, "output": {"pairs": 60}},
        "weighted": noise
        | {"data": noise["data"] | {"weight": "w", "label": "label"}}
        | {"coupling": {"n": 60, "rel_eps": 0.5}, "output": {"pairs": 60}},
        "chain": noise
        | {"data": noise["data"] | {"time": "t"}, "source": {"kind": "previous"}}
        | {"coupling": {"n": 10, "rel_eps": 0.5}, "output": {"pairs": 40}},
        "reflow": noise
        | {"coupling": {"n": 30, "method": "reflow", "run": str(data / "run"), "solver": "euler", "steps": 2}}
        | {"output": {"pairs": 45}},
        "recoupled": noise
        | {"coupling": {"n": 30, "method": "reflow", "run": str(data / "run"), "recouple": True}}
        | {"output": {"pairs": 60}},
        "features": noise
        | {"features": {"pca": 2}, "sampling": {"draw": "balanced"}}
        | {"coupling": {"n": 30, "cost": "sqeuclidean", "eps": 1.0}, "output": {"pairs": 30}},
    }


def trainings(store: Path) -> dict[str, dict[str, Any]]:
    """Small runs on a pair store."""
    train = {"train": {"steps": 4, "batch": 8, "warmup": 1}, "pairs": {"dir": str(store)}, "cluster": {"workers": 1}}
    return {
        "mlp": train | {"model": {"kind": "mlp", "width": 8, "depth": 1}, "output": {}},
        "bridge": train
        | {"model": {"kind": "mlp"}, "path": {"kind": "sb", "sigma": 0.5}, "objective": {"kind": "sf2m"}, "output": {}},
        "unet": train | {"model": {"kind": "unet"}, "output": {}},
    }


def write_data(directory: Path) -> None:
    """The data sets of `bases`."""
    draws = np.random.default_rng(0)
    x = draws.standard_normal((60, 4)).astype(np.float32)
    columns = {"w": draws.random(60), "label": np.arange(60) % 3, "t": np.repeat([0.0, 1.0, 2.0], 20)}
    np.savez(directory / "d.npz", x=x, **columns)  # type: ignore[arg-type]
    np.savez(directory / "e.npz", x=x[:45] + 1)
    write_run(directory / "run", MLP, (4,))


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a model, those of every member of a union, and of the parts themselves."""
    for name, field in model.model_fields.items():
        members = [field.annotation, *get_args(field.annotation)]
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        yield prefix + name
        for member in models:
            yield from keys(member, f"{prefix}{name}.")


def cases(count: int, seed: int, directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and configurations of couplings and, one in four, of trainings."""
    draw = random.Random(seed)
    kinds = [(bases(directory), sorted({*keys(CoupleConfig), "coupling.methd", "nothing", "data.x.y"}))] * 3
    kinds += [(trainings(directory / STORE), sorted({*keys(TrainConfig), "train.step", "nothing"}))]
    for _ in range(count):
        jobs, known = draw.choice(kinds)
        name, base = draw.choice(list(jobs.items()))
        changes = {draw.choice(known): draw.choice(VALUES) for _ in range(draw.choice([1, 1, 2]))}
        tree = {part: dict(values) for part, values in base.items()}
        for dotted, value in changes.items():
            *parts, last = dotted.split(".")
            node: Any = tree
            for part in parts:
                node = node.setdefault(part, {}) if isinstance(node, dict) else {}
            if isinstance(node, dict):
                node[last] = value
        yield f"{name} {changes!r}", tree


def attempt(tree: dict[str, Any], directory: Path) -> str | None:
    """Carry a configuration out, but for what needs Ray; return what is wrong with how it ends."""
    out, began = directory / "out", time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    if isinstance(tree.get("output"), dict):
        tree["output"].setdefault("dir", str(out))
    try:
        _carry_out(tree, directory)
        return None
    except InputError as error:
        # What only a solve can find may leave a directory, but one that is free for any other configuration.
        return _wrong(error) or (f"refused, and left results: {error}" if has_results(out) else None)
    except JobError as error:
        return _wrong(error)
    except TimeoutError:
        return f"took over {time.monotonic() - began:.0f} s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error)[-4:])}"


def _carry_out(tree: dict[str, Any], directory: Path) -> None:
    from flowpairs import PairStore
    from flowpairs.training.run.directory import check_run

    path = directory / "job.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    if "pairs" in tree:
        check_run(load(TrainConfig, path))
        return
    config = load(CoupleConfig, path)
    if config.cluster.actors == 0:
        PairStore.of(config).couple()


def _wrong(error: Exception) -> str | None:
    text = str(error)
    if "\n" in text or not 10 < len(text) < LONGEST:
        return f"not one short sentence: {text[:300]!r}"
    return None


def faults(count: int, seed: int, directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the cases that end wrong."""
    write_data(directory)
    _carry_out(bases(directory)["weighted"] | {"output": {"dir": str(directory / STORE), "pairs": 60}}, directory)

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    here = Path.cwd()
    try:
        for name, tree in cases(count, seed, directory):
            signal.alarm(LIMIT)
            with contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(directory):
                found = attempt(tree, directory)
            signal.alarm(0)
            if found is not None:
                yield name, found
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert Path.cwd() == here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import torch

    torch.set_num_threads(1)
    count = 0
    with tempfile.TemporaryDirectory(prefix="flowpairs-fuzz-") as directory:
        for name, found in faults(options.cases, options.seed, Path(directory)):
            count += 1
            print(f"{name}\n    {found}", flush=True)
    print(f"{options.cases:,} configurations, {count} faults")
    sys.exit(bool(count))


if __name__ == "__main__":
    main()

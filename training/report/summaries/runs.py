"""The files of a training run that the report shows: train.json, and those of the others that exist."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npz
from flowpairs.pipeline.config import leaves, read_yaml
from flowpairs.training.run.logbook import read_metrics


class _Json(BaseModel):
    """A JSON file of another part of the project, with the keys that the report needs; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Train(_Json):
    """The content of train.json: how a run was trained and how fast."""

    pairs_dir: str
    method: str
    steps: int
    batch: int
    workers: int | list[int]
    loss: float
    seconds: float
    samples_per_s: float
    data_wait: float  # fraction of the time spent waiting for data
    checkpoint: str
    made_with: dict[str, str] = {}


class Curve(_Json):
    """A quantity as a function of t."""

    t: list[float]
    value: list[float]


class Frechet(_Json):
    """One Frechet distance, and the mean number of function evaluations per sample."""

    solver: str
    nfe: float
    fd: float


class TimePointRow(_Json):
    """The distance of the flow to the data at one time point of a chain."""

    time: float
    t: float
    left_out: bool
    w1: float
    w1_still: float  # of the earlier data, left where they were
    w2: float | None = None
    mmd: float | None = None


class ReferenceFacts(_Json):
    """Which data the samples of an evaluation were compared with."""

    data: str | None = None
    split: str | None = None
    held_out: bool = False
    mirrored: bool | None = None
    count: int
    sha256: str

    def __str__(self) -> str:
        whose = "held-out data" if self.held_out else "data of the pairs"
        images = ", mirror images among them" if self.mirrored else ""
        split = f"split {self.split}" if self.split else "split not stated"
        return f"{self.count:,} {whose} ({split}{images}; sha256 {self.sha256[:12]})"


class Evaluation(_Json):
    """The content of evaluation.json: the curvature of the flow and the distances of its samples to the data."""

    samples: int
    seed: int
    guidance: float = 1.0
    batch: int | None = None  # samples at a time, for which dopri5 chooses its steps; as the next two, None before
    rtol: float | None = None
    atol: float | None = None
    reference: ReferenceFacts | None = None
    features: str
    curvature: float
    curvature_by_t: Curve | None = None
    distance_by_t: Curve | None = None  # of a trajectory from its chord, root of the mean square
    made_with: dict[str, str] = {}
    frechet: list[Frechet]
    floor: float | None = None  # the Frechet distance of as many real data, drawn with replacement
    time_points: list[TimePointRow] = []


@dataclass(frozen=True)
class Metrics:
    """The training loss in metrics.jsonl, by step."""

    step: Int[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]


@dataclass(frozen=True)
class Samples:
    """The content of samples.npz: real data, the samples of every solver from the same starts, and trajectories."""

    real: Float[np.ndarray, "r ..."]
    by_solver: dict[str, np.ndarray]  # "euler4", ..., "dopri5": each [k, *shape], in the order of the file
    trajectories: Float[np.ndarray, "k times ..."] | None  # images, or points in a plane
    predictions: Float[np.ndarray, "k times ..."] | None  # the end that the flow predicts at each time of these
    timepoints: (
        Float[np.ndarray, "points 2 drawn 2"] | None
    )  # data and flow at the time points of a chain, padded with NaN


@dataclass(frozen=True)
class Run:
    """A training run; parts that do not exist yet are None."""

    name: str
    path: Path
    train: Train
    metrics: Metrics | None
    evaluation: Evaluation | None
    samples: Samples | None
    config: str | None


def read_run(path: Path, name: str) -> Run:
    """Read the files that a training run and its evaluation wrote."""
    train = _read_json(Train, path / "train.json")
    config = path / "config.yaml"
    return Run(
        name,
        path,
        train,
        _read_losses(path / "metrics.jsonl"),
        read_evaluation(path),
        _read_samples(path / "samples.npz"),
        config.read_text(errors="replace") if config.is_file() else None,
    )


def differing_settings(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Find the dotted keys of config.yaml whose values differ among the runs that have one.

    Returns:
        Tuples of the key and its value in every run, in their order; a dash for a run without it.

    Raises:
        InputError: a config.yaml cannot be read.
    """
    flat = [{} if run.config is None else dict(leaves(read_yaml(run.path / "config.yaml"))) for run in runs]
    compared = [settings for settings, run in zip(flat, runs, strict=True) if run.config is not None]
    return [
        (key, [str(settings.get(key, "–")) for settings in flat])
        for key in sorted({key for settings in compared for key in settings})
        if len({str(settings.get(key)) for settings in compared}) > 1
    ]


def read_evaluation(path: Path) -> Evaluation | None:
    """Read evaluation.json of a run; None if it has not been evaluated."""
    file = path / "evaluation.json"
    return _read_json(Evaluation, file) if file.is_file() else None


Model = TypeVar("Model", bound=_Json)


def _read_json(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); run the job again") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"{path}: {key}: {first['msg']}; remove the file and run the job again") from error


def _read_losses(path: Path) -> Metrics | None:
    """Read the logged losses; None before the first line of the log."""
    try:
        # A resumed run logs the steps after its checkpoint again: the later line counts.
        losses = {int(line["step"]): float(line["loss"]) for line in read_metrics(path)}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not lines of JSON with step and loss ({error!r}); train again") from error
    if not losses:
        return None
    steps = sorted(losses)
    return Metrics(np.array(steps), np.array([losses[step] for step in steps]))


def _read_samples(path: Path) -> Samples | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            arrays = load_npz(file)
        paths, predicted, points = (arrays.pop(name, None) for name in ("trajectories", "predictions", "timepoints"))
        return Samples(arrays.pop("real"), arrays, trajectories=paths, predictions=predicted, timepoints=points)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not the samples of an evaluation ({error}); evaluate again") from error

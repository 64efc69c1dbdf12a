"""`flowpairs sample`: samples of a trained network as arrays, as cells, as a picture, or as one image file per sample.

Sampling runs in this process, on a GPU if this machine has one, and does not need Ray. A flow from noise needs the pair
store only for the frequencies of the labels, if none are given; a flow from data reads the store to find its starts.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.base.atomic import atomic_directory, atomic_open, write_atomically
from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.config.data import DataSource
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.config import EvaluateConfig, SampleConfig
from flowpairs.training.export.cell_file import write_cells
from flowpairs.training.pairs.endpoints import held_out, read_endpoints
from flowpairs.training.pairs.reference import read_reference
from flowpairs.training.report.drawing import figures, pictures
from flowpairs.training.run.trained import Trained, read_trained
from flowpairs.training.sampling import flow
from flowpairs.training.sampling.sampler import Sampler, batches_of

Form = Literal["arrays", "picture", "images", "cells"]
FORMS: dict[str, Form] = {".npz": "arrays", ".png": "picture", "": "images", ".h5ad": "cells"}


def sample(
    directory: str | Path, config: SampleConfig, output: Path, start: str | None = None, *, trust: bool = False
) -> float:
    """Draw samples with the averaged weights and write them.

    Args:
        directory: the directory of a finished run, or of one checkpoint of a run.
        config: the numbers of the samples and how to draw them.
        output: FILE.npz receives `samples` [n, ...] and, for a conditional network, `labels` [n]; FILE.h5ad the same
            as cells of anndata, with the points that they started from; FILE.png receives a grid of images or a scatter
            plot of points in the plane; a path without a suffix becomes a new directory of images, with one folder per
            label if there are labels.
        start: for a flow from data to data, the path or URL of the data to start from, in their order; None: the
            source data of the pairs, in a random order.
        trust: whether a network that is a class of somebody's own may be imported.

    Returns:
        The mean number of function evaluations per sample.

    Raises:
        InputError: the run does not exist, it cannot produce these samples, or they do not fit the output.
    """
    trained = read_trained(directory, trust=trust)
    form = output_form(output, trained.shape)
    check_samples(config, trained)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    starts = starting(config, trained, start)
    first, last = config.first, config.first + config.samples if starts is None else len(starts)
    sampler = Sampler(trained, config.model_copy(update={"samples": last}), classes(config, trained), device, starts)
    batches = [slice(first + rows.start, first + rows.stop) for rows in batches_of(last - first, config.batch)]
    drawn = list(sampler.draw(config.solver, config.steps, batches))
    labels = sampler.labels(slice(first, last))
    samples = torch.cat([x for x, _ in drawn])
    given = None if labels is None else labels.numpy()
    if form == "cells":
        write_cells(output, samples.numpy(), None if starts is None else starts[first:last].numpy(), given)
    else:
        write_samples(output, form, samples.numpy(), given)
    return sum(len(x) * nfe for x, nfe in drawn) / len(samples)


def output_form(output: Path, shape: tuple[int, ...]) -> Form:
    """Choose what to write from the suffix of the output.

    Args:
        output: the path to write to.
        shape: the shape of one datum.

    Raises:
        InputError: the suffix is unknown, the path cannot be written to, or the data cannot be shown as a picture.
    """
    where, kind = f"--output {str(output)!r}", pictures.kind(shape)
    form = FORMS.get(output.suffix.lower())
    if form is None:
        raise InputError(
            f"{where}: ends in none of .npz, .png and .h5ad; give such a file, or a directory without a suffix"
        )
    if form == "cells":
        require(where, "h5py")
    elif kind == "vector" and form != "arrays":
        raise InputError(f"{where}: data of shape {list(shape)} are neither images nor points; give a file.npz")
    if form == "images":
        if kind == "plane":
            raise InputError(f"{where}: points in the plane are no images; give a file.png or file.npz")
        if output.is_file() or (output.is_dir() and any(output.iterdir())):
            raise InputError(f"{where}: there already, and not an empty directory; give a new one")
    elif output.is_dir() or not output.absolute().parent.is_dir():
        raise InputError(f"{where}: not a file in an existing directory; give one, as in samples{output.suffix}")
    return form


def check_samples(config: SampleConfig, trained: Trained) -> None:
    """Refuse samples that the network cannot produce.

    Raises:
        InputError: steps are given for a solver that chooses them, or missing for one that does not; jumps are
            requested from an objective other than meanflow, an SDE from a run without a score, or labels or guidance
            from a network that was not trained for them.
    """
    solver = f"--solver {config.solver}"
    if config.solver == "dopri5" and config.steps is not None:
        raise InputError(f"--steps {config.steps}: dopri5 chooses its own; leave them out, or give --solver euler")
    if config.solver != "dopri5" and config.steps is None:
        raise InputError(f"{solver}: takes equal steps; say how many, as in --steps 16")
    if config.solver == "jump" and trained.config.objective.kind != "meanflow":
        raise InputError(f"{solver}: by the average velocity, which objective.kind=meanflow learns; give euler")
    if config.solver == "sde":
        flow.check_sde(solver, "give another solver", trained.config, trained.method, two_sided=trained.two_sided)
    if config.guidance != 1:
        flow.check_guidance(f"--guidance {config.guidance:g}", trained.config)
    for label in config.labels:
        if not trained.config.model.conditional:
            raise InputError(f"--label {label}: the network takes none; train with model.conditional=true")
        if not 0 <= label < trained.num_classes:
            raise InputError(f"--label {label}: not a label of these data; give one of 0 to {trained.num_classes - 1}")


def starting(config: SampleConfig, trained: Trained, start: str | None) -> Float32[Tensor, "n *shape"] | None:
    """Read the data that a two-sided flow starts from, up to the last sample's; None if the flow starts from noise.

    Raises:
        InputError: data are given for a flow that starts from noise, have another shape, end before the first sample
            or cannot be read; or the pairs are gone.
    """
    where, last = f"--from {start!r}", config.first + config.samples
    if not trained.two_sided:
        if start is not None:
            raise InputError(f"{where}: the flow starts from noise; leave it out")
        return None
    if start is None:
        endpoints = read_endpoints(trained.pairs, read_index(trained.pairs), EvaluateConfig())
        return endpoints.starts(last, config.seed)
    given = load(CoupleConfig, as_path(trained.pairs) / "config.yaml")
    side = given.source.as_data() if isinstance(given.source, DataSource) else given.data
    found = held_out(side.model_copy(update={"flips": False, "label": None}), start, trained.shape, where)
    if config.first >= len(found):
        raise InputError(f"--first {config.first}: beyond the {len(found)} rows of {where}; give a smaller number")
    return torch.from_numpy(found.rows.read(np.arange(min(last, len(found)))))


def classes(config: SampleConfig, trained: Trained) -> Int64[Tensor, " c"] | None:
    """Return the labels to draw from: the requested ones, or those of the data.

    Raises:
        InputError: no labels are requested, and the pairs that would give them are gone.
    """
    if config.labels or not trained.config.model.conditional:
        return torch.tensor(config.labels) if config.labels else None
    try:
        return read_reference(trained.pairs, read_index(trained.pairs)).label
    except InputError as error:
        raise InputError(f"labels as frequent as in the data: {error}; or say which by --label") from error


def write_samples(
    output: Path, form: Form, samples: Float32[np.ndarray, "n *shape"], labels: Int64[np.ndarray, " n"] | None
) -> None:
    """Write samples as arrays, as one picture or as single images."""
    if form == "arrays":
        with atomic_open(output) as file:
            arrays: dict[str, Any] = {"samples": samples} | ({} if labels is None else {"labels": labels})
            np.savez(file, **arrays)
    elif form == "picture" and samples.shape[1:] == (2,):
        write_atomically(output, figures.scatter(samples, labels))
    elif form == "picture":
        write_atomically(output, pictures.png(pictures.grid(samples, math.ceil(len(samples) ** 0.5), reach=1.0)))
    else:
        with atomic_directory(output) as directory:
            for number, pixels in enumerate(pictures.bytes_of(samples)):
                folder = directory if labels is None else directory / f"{labels[number]:04d}"
                folder.mkdir(exist_ok=True)
                (folder / f"{number:06d}.png").write_bytes(pictures.png(pixels))

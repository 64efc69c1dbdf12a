"""The model card: what was trained and how, how to sample with plain torch, and what the evaluation measured."""

import statistics
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.store import potential_files
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.training.export.network import in_diffusers_layout
from flowpairs.training.models.unet import TIME_SCALE
from flowpairs.training.report.drawing.pictures import kind
from flowpairs.training.report.summaries.runs import read_evaluation
from flowpairs.training.run.trained import Trained

SHOWN = 64  # number of samples that the card's example code draws

PATHS = {
    "cfm": "x_t = (1 - t) x0 + t x1{}",
    "fm": "x_t = t x1 + (1 - (1 - {sigma}) t) z, z standard noise in place of x0",
    "sb": "Brownian bridges of diffusion {sigma} from x0 to x1",
    "vp": "x_t = cos(pi t / 2) x0 + sin(pi t / 2) x1{}",
}


def card(trained: Trained, license: str) -> str:
    """Render the README of an export.

    Args:
        trained: the network to export.
        license: Hugging Face's abbreviation of a license; the license of the data may also bind the weights.

    Raises:
        InputError: evaluation.json or blocks.parquet cannot be read.
    """
    config, shape = trained.config, trained.shape
    image, classes = kind(shape) == "image", trained.num_classes if config.model.conditional else 0
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    scored, draw = config.objective.kind == "sf2m", ", ".join(map(str, (SHOWN, *shape)))
    return environment.get_template("card.md.j2").render(
        license=license,
        name=trained.run.path.name,
        pipeline_tag="unconditional-image-generation" if image and not classes else None,
        diffusers=in_diffusers_layout(trained),
        time_scale=f"{TIME_SCALE:g}",
        facts=facts(trained),
        settings=settings(trained),
        folders=["velocity", "score"] if scored else [""],
        scored=scored,
        objective=config.objective,
        path=config.path,
        classes=classes,
        null=trained.num_classes if config.train.label_dropout else None,
        shape_n=f"[n, {', '.join(map(str, shape))}]",
        two_sided=trained.two_sided,
        start=f"torch.zeros({draw})  # in place of {SHOWN} data to lead on: put yours here"
        if trained.two_sided
        else f"torch.randn({draw}, generator=torch.Generator().manual_seed(0))",
        evaluation=read_evaluation(trained.run.path) if trained.final else None,
    )


def facts(trained: Trained) -> list[tuple[str, str]]:
    """List the main facts about the network as (name, value), one per row of the card's table."""
    config, path = trained.config, trained.config.path
    data = " x ".join(map(str, trained.shape))
    if len(trained.shape) == 3:
        data += "; images of bytes are scaled to [-1, 1]"
    if config.model.conditional:
        data += f"; labels 0 to {trained.num_classes - 1}"
    noise = f" + {path.sigma:g} z, z standard noise" if path.sigma else ""
    return [
        ("data", data),
        ("pairs", coupled_how(trained)),
        ("path", PATHS[path.kind].format(noise, sigma=f"{path.sigma:g}")),
        ("objective", config.objective.kind),
        ("weights", f"moving average of decay {config.train.ema:g} at {trained.checkpoint.name}, float32"),
    ]


def coupled_how(trained: Trained) -> str:
    """Describe how the pairs were coupled, in as much detail as their store is available to give."""
    store = as_path(trained.pairs)
    blocks = read_blocks(store) if (store / "blocks.parquet").is_file() else []
    parts = [f"method {trained.method}"]
    if blocks:
        parts.append(f"blocks of {blocks[0]['n']:,} x {blocks[0]['m']:,}")
    elif trained.method == "semidiscrete" and store.is_dir():
        found = potential_files.load_potentials(store)
        parts.append(f"eps {found.eps:.4g}, relative {found.rel_eps:.4g}, chi-square of the masses {found.chi2:.2g}")
    for name, field in {"eps": "eps", "relative eps": "rel_eps", "sharpness E": "sharpness"}.items():
        values = [value for block in blocks if (value := block[field]) is not None]
        if values:
            parts.append(f"{name} {statistics.median(values):.4g}")
    if len(parts) == 1:
        parts.append("whose store was not at hand when this was written")
    return ", ".join(parts)


def settings(trained: Trained) -> str:
    """Dump the training configuration as YAML, without paths and cluster settings of this machine."""
    aside: Any = {"pairs": {"dir"}, "output": True, "cluster": True}
    return yaml.safe_dump(trained.config.model_dump(mode="json", exclude=aside), sort_keys=False)

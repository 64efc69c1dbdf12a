"""`flowpairs evaluate RUN`: curvature and Frechet distances of a finished run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from flowpairs.training.config import EvaluateConfig

# Name of a preset -> its folder in configs/, whose evaluate.yaml it is.
PRESETS = {
    "cifar10": "cifar-10",
    "imagenet32": "imagenet-32",
    "imagenet64": "imagenet-64",
    "imagenet256": "imagenet-256-latents",
}

Preset = Literal["cifar10", "imagenet32", "imagenet64", "imagenet256"]


def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="output.dir of a finished `flowpairs train`")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in samples=10000")] = None,
    preset: Annotated[Preset | None, typer.Option("--preset", help="as published figures were measured")] = None,
    json: Annotated[bool, typer.Option("--json", help="print evaluation.json for machines")] = False,
) -> None:
    """Sample with few and with many steps, compare with the data, and write evaluation.json and samples.npz to RUN.

    Example: `flowpairs evaluate runs/digits euler=[1,2,4]`
    """
    settings = evaluation_config(preset, overrides)
    from flowpairs.training.evaluate import evaluate as run_job

    report = run_job(run_dir, settings)
    if json:
        from json import dumps

        print(dumps(report, indent=1))
    else:
        from flowpairs.training.report.terminal import print_evaluation

        print_evaluation(report)


def evaluation_config(preset: Preset | None, overrides: list[str] | None) -> "EvaluateConfig":
    """Make the configuration of a preset, or of the defaults, and of the overrides.

    Raises:
        InputError: an override is malformed, or of no key.
    """
    from importlib.resources import files

    from flowpairs.pipeline.config import from_overrides, load
    from flowpairs.training.config import EvaluateConfig

    if preset is None:
        return from_overrides(EvaluateConfig, overrides)
    folder = Path(str(files("flowpairs.configs"))) / PRESETS[preset]
    return load(EvaluateConfig, folder / "evaluate.yaml", overrides)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(evaluate)

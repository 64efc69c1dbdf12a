"""`flowpairs evaluate RUN`: curvature and Frechet distances of a finished run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    from flowpairs.pipeline.config import from_overrides, load
    from flowpairs.training.config import EvaluateConfig

    if preset is None:
        settings = from_overrides(EvaluateConfig, overrides)
    else:
        from importlib.resources import files

        file = Path(str(files("flowpairs.configs"))) / PRESETS[preset] / "evaluate.yaml"
        settings = load(EvaluateConfig, file, overrides)
    from flowpairs.training.evaluate import evaluate as run_job

    report = run_job(run_dir, settings)
    if json:
        from json import dumps

        print(dumps(report, indent=1))
    else:
        from flowpairs.training.report.terminal import print_evaluation

        print_evaluation(report)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(evaluate)

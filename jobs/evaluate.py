"""`flowpairs evaluate RUN`: curvature and Frechet distances of a finished run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowpairs.pipeline.base.printing import print_line

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
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run; with --samples a pair store")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in samples=10000")] = None,
    preset: Annotated[Preset | None, typer.Option("--preset", help="as published figures were measured")] = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", metavar="FILE", help="score these samples (.npy, .npz) against a store")
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(metavar="TIMES", help="couple and train anew without each of these times of a chain; or all"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="trainings without each time, for --leave-out", min=1)] = 3,
    json: Annotated[bool, typer.Option("--json", help="print evaluation.json for machines")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="import a network that is a class of the run's maker")] = False,
) -> None:
    """Sample with few and with many steps, compare with the data, and write evaluation.json and samples.npz to RUN.

    With --leave-out a flow over time is put to the test: for each of the times, pairs and runs without it are made in
    RUN/leave-out, and their flow is compared with the data there.

    Example: `flowpairs evaluate runs/digits euler=[1,2,4]`
    """
    settings = evaluation_config(preset, overrides)
    if samples is not None:
        refuse_drawing(overrides)
        print_score(run_dir, samples, settings, as_json=json)
        return
    if leave_out is not None:
        from flowpairs.jobs._leave_out import leave_out as leave_out_each
        from flowpairs.jobs._leave_out import print_leave_out

        result = leave_out_each(run_dir, leave_out, seeds, settings, trust=trust)
        print_json(result) if json else print_leave_out(result)
        return
    from flowpairs.training.evaluate import evaluate as run_job

    if os.path.isfile(run_dir / "evaluation.json"):  # noqa: PTH113 - a path that is too long is refused below
        print_line(f"{run_dir}: evaluating anew; evaluation.json is replaced at the end", sys.stderr)
    report = run_job(run_dir, settings, trust=trust)
    if json:
        print_json(report)
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


def refuse_drawing(overrides: list[str] | None) -> None:
    """Refuse overrides that say how samples are drawn, where samples are given.

    Raises:
        InputError: there is one.
    """
    from flowpairs.pipeline.base.errors import InputError
    from flowpairs.training.metrics.given_samples import KEYS

    for item in overrides or []:
        if (key := item.partition("=")[0]) not in KEYS:
            raise InputError(f"{key}: samples that are given are not drawn again; remove it or --samples")


def print_json(report: dict[str, Any]) -> None:
    """Print a report for machines."""
    from json import dumps

    print(dumps(report, indent=1))


def print_score(store: Path, samples: Path, settings: "EvaluateConfig", *, as_json: bool) -> None:
    """Print how far samples that were made elsewhere are from the data of a store."""
    from flowpairs.training.metrics.given_samples import score

    report = score(store, samples, settings)
    if as_json:
        print_json(report)
        return
    held_to = f"{report['data']:,} data of {report['held_out'] or report['pairs_dir']}"
    print_line(f"{samples}: Fréchet distance {report['fd']:.4g}, {report['samples']:,} samples against {held_to}")
    print_line(f"features: {report['features']}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(evaluate)

"""`flowpairs sample RUN`: draw samples of a trained network."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flowpairs.pipeline.base.printing import print_line


def sample(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run, or a directory in RUN/checkpoints")],
    output: Annotated[
        Path, typer.Option(help="FILE.npz, FILE.h5ad, FILE.png (a grid) or a new directory (an image each)")
    ],
    count: Annotated[int, typer.Option(min=1, help="of samples")] = 64,
    first: Annotated[int, typer.Option(min=0, help="number of the first, to share samples out")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="of the noise, or of the order of the source's data")] = 0,
    solver: Annotated[
        Literal["dopri5", "euler", "midpoint", "heun", "sde", "jump"],
        typer.Option(help="jump: a MeanFlow model's own steps"),
    ] = "dopri5",
    steps: Annotated[int | None, typer.Option(min=1, help="of all but dopri5, which chooses them")] = None,
    label: Annotated[
        list[int] | None,
        typer.Option(help="of a conditional model; may be repeated", show_default="as frequent as in the data"),
    ] = None,
    guidance: Annotated[float, typer.Option(min=0, help="scale of classifier-free guidance")] = 1.0,
    start: Annotated[
        str | None, typer.Option("--from", help="data to lead on, of a flow from data to data; else those of its pairs")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="samples at a time; takes memory, changes rounding alone")] = 512,
    trust: Annotated[bool, typer.Option("--trust", help="import a network that is a class of the run's maker")] = False,
) -> None:
    """Draw samples from a run and write arrays, cells, a grid or single images, depending on the suffix of the output.

    Example: `flowpairs sample runs/digits --solver euler --steps 8 --output digits.png`
    """
    from flowpairs.pipeline.base.environment import require
    from flowpairs.pipeline.config import validate
    from flowpairs.training.config import SampleConfig

    given: dict[str, Any] = {"first": first, "samples": count, "seed": seed, "solver": solver, "steps": steps}
    given |= {"labels": tuple(label or ()), "guidance": guidance, "batch": batch}
    settings = validate(SampleConfig, given)
    require("flowpairs sample", "matplotlib")
    from flowpairs.training.sample import sample as run_job

    nfe = run_job(run_dir, settings, output, start, trust=trust)
    print_line(f"{output}: {count:,} samples by {solver}, {nfe:g} function evaluations each, seed {seed}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(sample)

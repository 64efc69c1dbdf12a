"""`flowpairs demo`: couple embedded data, train flows, and compare OT pairs with independent pairs in a report."""

from pathlib import Path
from typing import Annotated

import typer

from flowpairs.pipeline.base.printing import print_line

STEPS = "couple", "train", "evaluate"
TRAINING = "train.steps=1000", "train.checkpoint_every=1000", "cluster.workers=0"
EVALUATION = "samples=2000", "euler=[1, 2, 4, 8]", "jumps=[1]", "workers=0"
FLOWS: dict[str, tuple[str, list[str]]] = {  # the pairs of each, and what else differs
    "sinkhorn": ("sinkhorn", []),
    "independent": ("independent", []),
    "meanflow": ("sinkhorn", ["objective={kind: meanflow}"]),
}


def demo(
    directory: Annotated[Path, typer.Argument(help="where everything is left")] = Path("out/demo"),
    overrides: Annotated[
        list[str] | None, typer.Argument(help="a step's key=value, as in couple.coupling.n=4096 train.train.steps=500")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="trainings of each flow; with several the table has error bars", min=1)
    ] = 3,
    meanflow: Annotated[bool, typer.Option("--meanflow", help="train a MeanFlow on the OT pairs, too")] = False,
) -> None:
    """Couple scikit-learn's digits with noise, train on the pairs, and compare with training on independent pairs.

    This takes under three minutes on two cores, without Ray: a training takes one core, and as many run at once as
    there are cores. Run it again to resume where it stopped.

    Example: `flowpairs demo out/demo --meanflow`
    """
    from importlib.resources import files

    from flowpairs.pipeline.base.environment import require
    from flowpairs.pipeline.config import CoupleConfig, from_overrides, load
    from flowpairs.training.config import EvaluateConfig, TrainConfig

    require("flowpairs demo", "sklearn", "tensorboard", "matplotlib", "jinja2", extra="demo")
    given = _by_step(overrides or [])
    configs = Path(str(files("flowpairs.configs") / "digits"))
    stores = {method: directory / f"pairs-{method}" for method in ("sinkhorn", "independent")}
    independent = ["coupling.method=independent", "coupling.rel_eps=null"]
    couplings = [
        load(
            CoupleConfig,
            configs / "couple.yaml",
            [
                "cluster.actors=0",
                *given["couple"],
                f"output.dir={store}",
                *(independent if method == "independent" else []),
            ],
        )
        for method, store in stores.items()
    ]
    trainings = [
        load(
            TrainConfig,
            configs / "train.yaml",
            [
                *TRAINING,
                *own,
                *given["train"],
                f"train.seed={seed}",
                f"pairs.dir={stores[method]}",
                f"output.dir={directory / f'run-{name}-seed{seed}'}",
            ],
        )
        for name, (method, own) in FLOWS.items()
        if meanflow or name != "meanflow"
        for seed in range(seeds)
    ]
    evaluation = from_overrides(EvaluateConfig, [*EVALUATION, *given["evaluate"]])

    from flowpairs.jobs._demo_runs import train_all
    from flowpairs.jobs._summary import print_summary
    from flowpairs.pipeline.couple import couple
    from flowpairs.training.report.page import write_report
    from flowpairs.training.report.terminal import print_comparison

    for coupling in couplings:
        couple(coupling)
        print_summary(Path(coupling.output.dir))
    train_all(trainings, evaluation)
    runs = [Path(training.output.dir) for training in trainings]
    page = write_report([*stores.values(), *runs], directory / "report.html")
    print_comparison(runs)
    print_line(f"pair store  {stores['sinkhorn']}")
    print_line(f"checkpoint  {runs[0] / 'checkpoints'}")
    print_line(f"report      {page}")


def _by_step(overrides: list[str]) -> dict[str, list[str]]:
    """Sort the overrides by step of the demo, and remove the step from their keys.

    Raises:
        InputError: an override does not begin with a step.
    """
    from flowpairs.pipeline.base.errors import InputError

    given: dict[str, list[str]] = {step: [] for step in STEPS}
    for override in overrides:
        step, _, rest = override.partition(".")
        if step not in given:
            raise InputError(f"{override!r}: of no step of the demo; begin with couple., train. or evaluate.")
        given[step].append(rest)
    return given


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(demo)

"""`flowpairs demo`: from embedded data to a trained flow and a report, OT pairs against independent pairs."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


def demo(
    directory: Annotated[Path, typer.Argument(help="where everything is left")] = Path("out/demo"),
) -> None:
    """Couple scikit-learn's digits with noise, train on the pairs, and compare with independent pairs trained alike.

    Takes about two minutes on two cores. Run again, it goes on where it stopped.

    Example: `flowpairs demo out/demo`
    """
    from flowpairs.pipeline.config import CoupleConfig, load
    from flowpairs.training.config import EvaluateConfig, TrainConfig

    configs = Path(str(files("flowpairs.configs") / "digits"))
    stores = {method: directory / f"pairs-{method}" for method in ("sinkhorn", "independent")}
    runs = {method: directory / f"run-{method}" for method in stores}
    couplings = [
        load(CoupleConfig, configs / "couple.yaml", [f"output.dir={stores['sinkhorn']}"]),
        load(
            CoupleConfig,
            configs / "couple.yaml",
            [f"output.dir={stores['independent']}", "coupling.method=independent", "coupling.rel_eps=null"],
        ),
    ]
    trainings = [
        load(TrainConfig, configs / "train.yaml", [f"pairs.dir={stores[method]}", f"output.dir={runs[method]}"])
        for method in stores
    ]

    from flowpairs.pipeline.couple import couple
    from flowpairs.pipeline.store.summary import print_summary
    from flowpairs.training.evaluate import evaluate
    from flowpairs.training.report.page import write_report
    from flowpairs.training.report.terminal import print_comparison
    from flowpairs.training.train import train

    for coupling in couplings:
        couple(coupling)
        print_summary(Path(coupling.output.dir))
    for training in trainings:
        train(training)
        evaluate(training.output.dir, EvaluateConfig())
    page = write_report([*stores.values(), *runs.values()], directory / "report.html")
    print_comparison(list(runs.values()))
    print(f"pair store  {stores['sinkhorn']}")
    print(f"checkpoint  {runs['sinkhorn'] / 'checkpoints'}")
    print(f"report      {page}")


if __name__ == "__main__":
    from flowpairs.jobs.run import run

    run(demo)

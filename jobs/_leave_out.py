"""Leave-one-out over a chain: couple and train without each time point in turn, and compare the flow with its data."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowpairs.jobs._tables import print_rows
from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store.format import rows_directory
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.run.trained import Trained, read_finished

FOLDER, RESULT = "leave-out", "leave-out.json"
FIGURES = {"W1": "w1", "W1 unmoved": "w1_still", "W2": "w2", "MMD": "mmd"}


@dataclass(frozen=True)
class Left:
    """One coupling without a time point, and the trainings on it.

    Attributes:
        time: the time point.
        coupling: the config of the coupling.
        trainings: the config of a run per seed.
    """

    time: float
    coupling: CoupleConfig
    trainings: list[TrainConfig]


def leave_out(run_dir: Path, which: str, seeds: int, evaluation: EvaluateConfig, *, trust: bool) -> dict[str, Any]:
    """Couple and train anew without each of some time points, and measure the flow there.

    All is left in RUN/leave-out and goes on where it was stopped; RUN/leave-out.json holds the figures.

    Args:
        run_dir: a finished run on a chain of pairs over time.
        which: the time points, separated by commas; all: every one but the first and the last.
        seeds: trainings per time point.
        evaluation: the configuration of the evaluations.
        trust: whether a network that is a class of somebody's own may be imported.

    Returns:
        The content of RUN/leave-out.json.

    Raises:
        InputError: the run is not of a chain, a time point is not one that can be left out, or a job is refused.
    """
    trained = read_finished(run_dir, trust=trust)
    trained.refuse_untrusted()
    plan = plan_leave_out(trained, which, seeds)

    from flowpairs.pipeline.couple import couple
    from flowpairs.training.evaluate import evaluate
    from flowpairs.training.train import train

    rows = []
    for number, left in enumerate(plan):
        print_line(f"without {left.time:g}: {number + 1} of {len(plan)} time points, {seeds} trainings each")
        couple(left.coupling)
        for seed, training in enumerate(left.trainings):
            done = Path(training.output.dir) / "evaluation.json"
            train(training)
            report = json.loads(done.read_bytes()) if done.is_file() else {}
            if any(report.get(key) != getattr(evaluation, key) for key in ("samples", "seed", "rtol", "atol")):
                report = evaluate(training.output.dir, evaluation, trust=trust)
            [point] = [row for row in report["time_points"] if row["time"] == left.time]
            rows.append({"time": left.time, "seed": seed, **{name: point[name] for name in FIGURES.values()}})
    result = {"run": str(run_dir), "seeds": seeds, "rows": rows}
    write_atomically(trained.run.path / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


def plan_leave_out(trained: Trained, which: str, seeds: int) -> list[Left]:
    """Make the configs of all jobs, before the first of them starts.

    Raises:
        InputError: as for `leave_out`.
    """
    store = as_path(trained.pairs)
    coupled = load(CoupleConfig, store / "config.yaml")
    if coupled.data.time is None:
        raise InputError(
            f"--leave-out {which}: {trained.pairs!r} is no chain of pairs over time; couple with data.time and "
            "source.kind=previous"
        )
    where = rows_directory(store)
    times = row_set.open_target(where).times
    inner = [] if times is None else sorted({float(time) for time in times.tolist()})[1:-1]
    chosen = inner if which == "all" else _times(which, inner)
    if not chosen:
        raise InputError(f"--leave-out {which}: a chain of fewer than three time points has none to leave out")
    folder, out = trained.run.path / FOLDER, []
    for time in chosen:
        pairs = folder / f"{time:g}" / "pairs"
        data = coupled.data.model_copy(update={"leave_out": (time,)})
        output = coupled.output.model_copy(update={"dir": str(pairs)})
        coupling = coupled.model_copy(update={"data": data, "output": output})
        trainings = []
        for seed in range(seeds):
            given = trained.config.pairs.model_copy(update={"dir": str(pairs), "fingerprint": None})
            trainings.append(
                trained.config.model_copy(
                    update={
                        "pairs": given,
                        "train": trained.config.train.model_copy(update={"seed": seed}),
                        "output": trained.config.output.model_copy(
                            update={"dir": str(folder / f"{time:g}" / f"seed-{seed}")}
                        ),
                    }
                )
            )
        out.append(Left(time, coupling, trainings))
    return out


def _times(which: str, inner: list[float]) -> list[float]:
    """Read time points from the command line."""
    try:
        chosen = [float(part) for part in which.split(",")]
    except ValueError as error:
        raise InputError(f"--leave-out {which!r}: numbers separated by commas, or all") from error
    if wrong := [time for time in chosen if time not in inner]:
        there = ", ".join(f"{time:g}" for time in inner) or "none"
        raise InputError(
            f"--leave-out {which}: {wrong[0]:g} is not a time point between the first and the last; these are {there}"
        )
    return sorted(set(chosen))


def print_leave_out(result: dict[str, Any]) -> None:
    """Print the mean of each figure per time point and over all of them, with standard deviations over seeds."""
    times = sorted({row["time"] for row in result["rows"]})

    def cells(name: str, of: list[float]) -> str:
        """Average over time points first: the spread is that of seeds."""
        per_seed = [
            statistics.fmean(row[name] for row in result["rows"] if row["seed"] == seed and row["time"] in of)
            for seed in range(result["seeds"])
        ]
        spread = f" ± {statistics.stdev(per_seed):.2g}" if len(per_seed) > 1 else ""
        return f"{statistics.fmean(per_seed):.3f}{spread}"

    rows = [
        (label, ", ".join(f"{title} {cells(name, of)}" for title, name in FIGURES.items()))
        for label, of in [*((f"without {time:g}", [time]) for time in times), ("mean", times)]
    ]
    print_rows(f"time points left out of coupling and training, {result['seeds']} seeds", rows)

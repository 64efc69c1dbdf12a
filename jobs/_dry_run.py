"""What `--dry-run` shows: every check that needs no cluster, then what the command would do. Nothing is written."""

from pathlib import Path
from typing import TYPE_CHECKING

from flowpairs.jobs._tables import print_rows
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import counted
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.training.config import TrainConfig

if TYPE_CHECKING:
    from flowpairs.training.run.directory import RunDirectory

TITLE = "dry run: nothing was written or started"
LATER = "what the cluster holds, when the job starts"

Rows = list[tuple[str, str]]


def show_coupling(config: CoupleConfig, *, extend: bool = False, trust: bool = False) -> None:
    """Check a coupling job and print what it would do.

    Raises:
        InputError: as `flowpairs.pipeline.couple.couple`, but for what only a cluster shows.
    """
    print_rows(TITLE, coupling_rows(config, extend=extend, trust=trust))


def show_training(config: TrainConfig) -> None:
    """Check a training run and print what it would do.

    Raises:
        InputError: as `flowpairs.training.train.train`, but for what only a cluster shows.
    """
    print_rows(TITLE, training_rows(config))


def show_stream(config: StreamConfig) -> None:
    """Check both jobs of a stream and print what they would do.

    Raises:
        InputError: as the two jobs; the training's model is checked where the data of the pairs are known.
    """
    from flowpairs.pipeline.store.format import has_outline
    from flowpairs.training.run import directory

    rows = [(f"couple: {name}", text) for name, text in coupling_rows(config.couple)]
    if has_outline(config.couple.output.dir):
        rows += [(f"train: {name}", text) for name, text in training_rows(config.train)]
    else:
        directory.check_numbers(config.train, config.couple.output.pairs)
        directory.check_output(config.train)
        rows += [("train: steps", f"{config.train.train.steps:,} of {config.train.train.batch:,} pairs")]
    print_rows(TITLE, rows)


def coupling_rows(config: CoupleConfig, *, extend: bool = False, trust: bool = False) -> Rows:
    """Check a coupling job, and say in rows of a table what it would do."""
    from flowpairs.pair_store import run_opener
    from flowpairs.pipeline.config import check_cost
    from flowpairs.pipeline.couple import assemble, check_inputs, maker_of
    from flowpairs.pipeline.data import describe
    from flowpairs.pipeline.solve.inputs import read_inputs
    from flowpairs.pipeline.store import resume

    check_cost(config)
    directory, asked = as_path(config.output.dir), config
    resume.refuse_owned(directory, resume.output_key(directory))
    earlier = resume.check_directory(config, directory, extend=extend)
    maker = maker_of(config, run_opener(trust=trust))
    config, surveyed, blocks = check_inputs(config, maker)
    if surveyed.small:
        blocks = assemble(config, read_inputs(config, surveyed, None), maker, extend=extend).blocks
    rows = [("data", describe(config.data, surveyed.target)), ("method", config.coupling.method)]
    if blocks is not None:
        rows += [
            ("pairs", f"{blocks.pairs:,} from {counted(blocks.count, 'block')} of {blocks.rows:,} x {blocks.m:,}"),
            ("shards", f"payload {config.output.payload}, up to {blocks.pairs_per_shard:,} pairs each"),
        ]
        done = len(resume.blocks_done(directory, blocks)) if earlier is not None and blocks.count else 0
        rows.append(("there already", f"{done:,} of {counted(blocks.count, 'block')}" if done else "nothing"))
    actors = asked.cluster.actors
    where = "in this process" if actors == 0 else f"on Ray, actors: {actors}"
    return [
        *rows,
        ("output.dir", str(directory)),
        ("computed", where),
        *([("still to check", LATER)] if actors else []),
    ]


def training_rows(config: TrainConfig) -> Rows:
    """Check a training run, and say in rows of a table what it would do."""
    from flowpairs.training import objectives
    from flowpairs.training.run import directory, trackers
    from flowpairs.training.run.initial_weights import load_init, pin_init

    config, index = directory.check_run(pin_init(config))
    trackers.check_trackers(config.output.trackers)
    network = objectives.build_network(config, index.shape, index.num_classes)
    if config.train.init is not None:
        load_init(network, config.train.init)
    workers, train, run = config.cluster.workers, config.train, directory.RunDirectory(Path(config.output.dir))
    epochs = f", {train.steps * train.batch / index.pairs:.3g} epochs" if index.pairs else ""
    weights = sum(weight.numel() for weight in network.parameters())
    return [
        ("pairs", f"{config.pairs.dir}, {index.pairs:,} of shape {list(index.shape)}"),
        ("model", f"{config.model.kind}, {weights:,} weights"),
        ("steps", f"{train.steps:,} of {train.batch:,} pairs{epochs}"),
        ("there already", _begun(run, train.steps)),
        ("output.dir", str(run.path)),
        ("trained", "in this process" if workers == 0 else f"on Ray, workers: {workers}"),
        *([("still to check", LATER)] if workers else []),
    ]


def _begun(run: "RunDirectory", steps: int) -> str:
    """Say from where a run would go on."""
    from flowpairs.training.run.status import read_run_status

    if not run.config.is_file():
        return "nothing"
    found = read_run_status(run.path)
    return "all: the run is finished" if found.finished(steps) else found.checkpoint or "nothing"

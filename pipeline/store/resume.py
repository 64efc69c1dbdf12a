"""The output directory of a coupling job: what it holds, and whether the job may continue there."""

import sys
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from flowpairs.pipeline import config as configs
from flowpairs.pipeline.base.atomic import refuse_unwritable
from flowpairs.pipeline.base.environment import in_submitted_job
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.owner import is_empty, refuse_owned
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.shard_layout import damage

# What a job writes before its first result.
PREPARED = ("config.yaml", format.OUTLINE)
OWN = "pairs-*", "part-*", "map.npz", "manifest.json", "source.json", ".*.tmp"  # names of files of parts of a store
SETS = ("rows", "source_rows", "features", "source_features")


def find_complete(config: CoupleConfig, directory: AnyPath, *, extend: bool = False) -> format.Index | None:
    """Check the output directory before anything is started; return the index when the store is already complete.

    Args:
        config: the job.
        directory: its output directory.
        extend: whether a store with fewer pairs may grow, by whole blocks after its own.

    Raises:
        InputError: as `check_directory`, a directory that cannot be written, or one that another process writes to.
    """
    refuse_owned(directory, output_key(directory))
    earlier = check_directory(config, directory, extend=extend)
    if earlier is None or earlier.output.pairs < config.output.pairs:
        return None
    finished = _finished(directory) if _paths(config) == _paths(earlier) else None
    if finished is None:
        refuse_unwritable(directory, output_key(directory))
    return finished


def check_directory(config: CoupleConfig, directory: AnyPath, *, extend: bool = False) -> CoupleConfig | None:
    """Read the config of the store, begun or complete, in the output directory; None where that is empty or missing.

    Raises:
        InputError: a relative path inside a submitted job, a directory with other things in it, or a store made with
            another config.
    """
    if config.output.dir.startswith("memory://") and config.cluster.actors != 0:
        raise InputError(
            f"output.dir={config.output.dir!r}: every process has a memory of its own, and actors are others; "
            "give a directory or a URL that all nodes reach, as in s3://bucket/pairs, or cluster.actors=0"
        )
    if in_submitted_job() and isinstance(directory, Path) and not directory.is_absolute():
        raise InputError(
            f"{output_key(directory)}: relative, and a submitted job's working directory is thrown away; "
            "give an absolute path on storage that all nodes share"
        )
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{output_key(directory)}: a file is in the way; give another directory")
    if is_empty(directory):
        refuse_unwritable(directory, output_key(directory))
        return None
    earlier = _earlier(directory)
    if earlier is not None and not has_results(directory):
        return None
    if earlier is None:
        raise InputError(f"{output_key(directory)}: not empty and not a pair store; give an empty or a new directory")
    _refuse_difference(config, earlier, directory, extend=extend)
    return earlier


def settle_payload(config: CoupleConfig, directory: AnyPath, shape: tuple[int, ...], *, noise: bool) -> CoupleConfig:
    """Return the config with a payload in place of `auto`: that of the store's pairs, or what their size suggests.

    Args:
        config: the job.
        directory: its output directory.
        shape: shape of a datum.
        noise: whether x0 can be found again, as a seed's noise or by its ids.
    """
    earlier = _earlier(directory)
    if config.output.payload == "auto" and earlier is not None and has_results(directory):
        output = config.output.model_copy(update={"payload": earlier.output.payload})
    else:
        output = config.output.decided(shape, restorable=noise)
    return config.model_copy(update={"output": output})


def check_same(config: CoupleConfig, directory: AnyPath, *, extend: bool = False) -> None:
    """Compare a config that has its inputs' fingerprints to that of the store in the output directory, if any.

    Raises:
        InputError: the store was made from other inputs.
    """
    earlier = _earlier(directory)
    if earlier is not None and has_results(directory):
        _refuse_difference(config, earlier, directory, extend=extend)


def output_key(directory: AnyPath) -> str:
    """Name the key of the output directory with its value, for messages."""
    return f"output.dir={str(directory)!r}"


def has_results(directory: AnyPath) -> bool:
    """Return whether a store has a finished shard, a potential or a checkpoint; without, it is free for any config."""
    found = ((directory / "shards", "pairs-*.json"), (directory / "potentials", "[!.]*"))
    return any(fnmatch(path.name, names) for part, names in found if part.is_dir() for path in part.iterdir())


def prepare_store(config: CoupleConfig, directory: AnyPath) -> None:
    """Make the directories, write the config and remove what a dead run left half-written.

    It is called before rows are made on disk, and again with a config that holds the fingerprints of all that was read.

    The caller owns the directory. What another config has begun without a result is removed first. A store that grows
    gets its new config first, then loses its index, which the job writes anew.
    """
    earlier = _earlier(directory)
    if earlier is not None and not has_results(directory) and _differences(config, earlier):
        _clear(directory)
    elif earlier is not None and earlier.output.pairs < config.output.pairs:
        _save(config, directory)
        (directory / "index.json").unlink(missing_ok=True)
    for part in (directory, directory / "shards", directory / "potentials"):
        part.mkdir(parents=True, exist_ok=True)
    for part in (directory, *(directory / name for name in ("shards", "potentials", *SETS))):
        if isinstance(part, Path):  # at a URL nothing is ever half-written
            for temporary in part.glob(".*.tmp"):
                temporary.unlink(missing_ok=True)
    earlier = _earlier(directory)
    if earlier is None or earlier.data.fingerprint is None:
        _save(config, directory)


def _save(config: CoupleConfig, directory: AnyPath) -> None:
    remark = f"flowpairs couple; hash of what determines the pairs: {configs.digest(config.determining())}"
    configs.save(config, directory / "config.yaml", remark)


def _clear(directory: AnyPath) -> None:
    """Remove what a job writes before its first result."""
    print_line(f"{directory}: holds no pair yet; starting over with this config", sys.stderr)
    for name in PREPARED:
        (directory / name).unlink(missing_ok=True)
    for part in ("shards", "features", "source_features"):  # rows know themselves what they were made from
        there = directory / part
        if isinstance(there, Path) and there.is_symlink():
            raise InputError(f"{there}: a link to another directory, whose files are not removed; remove the link")
        for path in there.iterdir() if there.is_dir() else ():
            if any(fnmatch(path.name, names) for names in OWN):
                path.unlink(missing_ok=True)


def blocks_done(directory: AnyPath, blocks: Blocks) -> set[int]:
    """List the blocks that have all their shards, found from the files, as a job may have any number of blocks."""
    shards, per_block = directory / "shards", len(blocks.shards(0))
    names = [path.name for path in shards.iterdir()] if shards.is_dir() else []
    numbers = [int(name[len("pairs-") : -len(".json")]) for name in names if fnmatch(name, "pairs-[0-9]*.json")]
    begun = {number // per_block for number in numbers}
    if isinstance(directory, Path):
        return {block for block in begun if block < blocks.count and block_done(directory, blocks, block)}
    there = set(names)  # at a URL a file is complete or absent, and asking one by one would take a while

    def listed(number: int) -> bool:
        name = format.shard_name(number)
        return {name, str(PurePosixPath(name).with_suffix(".json"))} <= there

    return {block for block in begun if block < blocks.count and all(map(listed, blocks.shards(block)))}


def block_done(directory: AnyPath, blocks: Blocks, block: int) -> bool:
    """Return whether every shard of the block is there with its sidecar and its recorded size."""
    for number in blocks.shards(block):
        sidecar = format.sidecar_path(directory, format.shard_name(number))
        if not sidecar.is_file() or damage(directory, format.read_sidecar(sidecar).shard, content=False):
            return False
    return True


def _paths(config: CoupleConfig) -> tuple[str | None, ...]:
    """List the paths of all that a job reads."""
    of_coupling = config.coupling.table, config.coupling.matrix, config.coupling.run
    return config.data.path, getattr(config.source, "path", None), *of_coupling


def _finished(directory: AnyPath) -> format.Index | None:
    """Read the index if all that it promises is there, with shards of their recorded sizes; otherwise remove it."""
    path = directory / "index.json"
    if not path.is_file():
        return None
    index, config = format.read_index(directory), _earlier(directory)
    if config is not None and index.pairs != config.output.pairs:  # it began to grow
        path.unlink()
        return None
    lost = [shard.name for shard in index.shards if not _is_whole(directory, shard)]
    if format.needs_rows(index.payload, index.method):
        for side in format.row_sides(index):
            where = format.rows_directory(directory, side)
            lost += [f"{where.name}/{name}" for name in row_set.lost_files(where)]
    if index.method == "semidiscrete":
        needed = ["features/map.npz", "potentials/g.npy", "potentials/semidiscrete.json"]
        lost += [name for name in needed if not (directory / name).is_file()]
        lost += [f"features/{name}" for name in row_set.lost_files(directory / "features")]
    if not lost:
        return index
    refuse_unwritable(directory, output_key(directory))
    print_line(f"{directory}: {', '.join(lost)} missing or cut short; making these again", sys.stderr)
    path.unlink()
    return None


def _is_whole(directory: AnyPath, shard: format.Shard) -> bool:
    """Return whether the shard and its sidecar are there and the tar has its recorded size.

    The tar is not hashed: that would read whole stores at every start, and training hashes what it reads.
    """
    return format.sidecar_path(directory, shard.name).is_file() and damage(directory, shard, content=False) is None


def _earlier(directory: AnyPath) -> CoupleConfig | None:
    path = directory / "config.yaml"
    if not path.is_file():
        return None
    if "train" in configs.read_yaml(path):
        raise InputError(f"{output_key(directory)}: holds a training run; give an empty or a new directory")
    return configs.load(CoupleConfig, path)


def _refuse_difference(
    config: CoupleConfig, earlier: CoupleConfig, directory: AnyPath, *, extend: bool = False
) -> None:
    pairs, before = config.output.pairs, earlier.output.pairs
    grown = _differences(config, _with_pairs(earlier, pairs)) == [] and pairs > before
    if grown and before % config.coupling.n == 0 and before:
        if extend:
            return
        raise InputError(
            f"output.pairs={pairs}: {output_key(directory)} has {before}; `flowpairs couple --extend` adds the others "
            "and leaves those as they are"
        )
    differences = _differences(config, earlier)
    if differences:
        remedy = "give another output.dir or the same values"
        if grown:
            remedy = f"only a store of whole blocks of coupling.n={config.coupling.n} pairs can grow; {remedy}"
        raise InputError(f"{output_key(directory)}: holds pairs of another config; {', '.join(differences)}; {remedy}")


def _with_pairs(config: CoupleConfig, pairs: int) -> CoupleConfig:
    return config.model_copy(update={"output": config.output.model_copy(update={"pairs": pairs})})


def _differences(config: CoupleConfig, earlier: CoupleConfig) -> list[str]:
    """List the keys in which two configs determine other pairs."""
    ours, theirs = config.determining(), earlier.determining()
    if "auto" in (config.output.payload, earlier.output.payload):  # before it is decided
        ours["output"].pop("payload")
        theirs["output"].pop("payload")
    if None in (config.data.fingerprint, earlier.data.fingerprint):  # before the data are read
        for part in ("data", "source", "coupling"):
            for tree in (ours, theirs):
                tree[part] = {key: value for key, value in tree[part].items() if not key.endswith("fingerprint")}
    return configs.differing(ours, theirs)

"""`flowpairs config KEY`: explain a key of a configuration, from the models that validate it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.pipeline.base.printing import print_line

if TYPE_CHECKING:
    from flowpairs.pipeline.config.keys import Key


def complete_key(incomplete: str) -> list[str]:
    """List the keys that begin so, for a shell."""
    return sorted({key.name for _, key in all_keys() if key.name.startswith(incomplete)})


def config(
    key: Annotated[
        str | None,
        typer.Argument(help="a key, a section or the last word of a key; none: all", autocompletion=complete_key),
    ] = None,
) -> None:
    """Explain a configuration key: what it does, its type, its default and its unit.

    Example: `flowpairs config coupling.n`
    """
    found = list(all_keys()) if key is None else list(find_keys(key))
    many = key is None or len(found) > 6
    for command, each in found:
        _print_line(command, each) if many else _print(command, each)


def all_keys() -> Iterator[tuple[str, "Key"]]:
    """Yield every key of every command that takes some, with the command."""
    from flowpairs.pipeline.config import CoupleConfig, Strict
    from flowpairs.pipeline.config.keys import keys_of
    from flowpairs.training.config import EvaluateConfig, TrainConfig

    models: dict[str, type[Strict]] = {"couple": CoupleConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    for command, model in models.items():
        for each in keys_of(model):
            yield command, each


def find_keys(key: str) -> list[tuple[str, "Key"]]:
    """Find the keys of this name; else those below or inside it; else those with it as the last part of their name.

    Raises:
        InputError: no key is like it; names near ones.
    """
    from difflib import get_close_matches

    from flowpairs.pipeline.base.errors import InputError

    keys = list(all_keys())
    for prefix in ("couple.", "train."):  # as `stream` has them
        if key.startswith(prefix) and not any(each.name == key for _, each in keys):
            key = key.removeprefix(prefix)
    ways = (
        lambda name: name == key,
        lambda name: name.startswith(f"{key}."),
        lambda name: name.rpartition(".")[2] == key,
    )
    exact, below, last = ([pair for pair in keys if way(pair[1].name)] for way in ways)
    if found := [pair for pair in exact if not pair[1].parts] or [*exact, *below] or last:
        return found
    names = list(dict.fromkeys(each.name for _, each in keys))
    near = get_close_matches(key, names, cutoff=0.5)
    ending = [name for name in names if get_close_matches(key, [name.rpartition(".")[2]], cutoff=0.7)]
    some = " or ".join(list(dict.fromkeys([*near, *ending]))[:3])
    raise InputError(
        f"config {key!r}: no such key; {f'did you mean {some}?' if some else '`flowpairs config` lists all'}"
    )


def _print_line(command: str, key: "Key") -> None:
    print_line(f"{command:9}{key.name:34}{key.effect}")


def _print(command: str, key: "Key") -> None:
    """Print all that there is to say about one key."""
    default = "must be given" if key.default is None else f"default {key.default}"
    facts = [key.type, *([] if key.parts else [default]), *([f"unit {key.unit}"] if key.unit else [])]
    print_line(f"{key.name}   ({command}, since {key.since}{f', with {key.only}' if key.only else ''})")
    print_line(f"    {key.effect}")
    print_line(f"    {'; '.join(facts)}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(config)

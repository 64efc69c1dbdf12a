"""What commands that look at files print, for a person and for machines, and how they end."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from support.couplings import couple_here, settings
from typer.testing import CliRunner, Result

import flowpairs
from flowpairs import PairStore
from flowpairs.jobs._summary import print_summary
from flowpairs.jobs.cli import COMMANDS, application
from flowpairs.jobs.entry import SETTINGS, guarded
from flowpairs.jobs.jobs import print_jobs
from flowpairs.jobs.plan import print_plan
from flowpairs.jobs.remote.dashboard import SubmittedJob
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.plan import Plan
from flowpairs.pipeline.store.format import Index


def invoke(*arguments: str) -> Result:
    """A command in this process; a terminal wide enough for every row of a table."""
    return CliRunner(env={"COLUMNS": "120"}).invoke(application(), arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    directory = tmp_path_factory.mktemp("output") / "pairs"
    return directory, couple_here(settings(directory, coupling={"n": 300}, output={"pairs": 600, "payload": "ids"}))


def test_the_versions_and_the_devices() -> None:
    """And nothing starts Ray."""
    import ray

    before = ray.is_initialized()
    found = invoke("--version")
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert lines[0] == f"flowpairs {version('flowpairs')}"
    assert lines[2:4] == [f"ray {ray.__version__}", f"torch {torch.__version__}"]
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    assert lines[4:] == ([f"cuda:{number} {name}" for number, name in enumerate(devices)] or ["no CUDA device"])
    assert ray.is_initialized() == before


def test_the_version_stands_in_one_place() -> None:
    assert flowpairs.__version__ == version("flowpairs")


def test_the_help_lists_every_command() -> None:
    listed = re.findall(r"│ (\w+)  ", invoke("--help").output)
    assert tuple(listed) == COMMANDS


def test_a_store_is_shown_to_people_and_machines(store: tuple[Path, Index]) -> None:
    directory, index = store
    told = json.loads(invoke("status", str(directory), "--json").output)
    assert (told["complete"], told["pairs"], told["pairs_total"], told["blocks"]) == (True, 600, 600, 2)
    assert told["bytes"] == sum(shard.bytes for shard in index.shards)
    shown = invoke("status", str(directory)).output
    assert f"{directory}:complete" in "".join(shown.split())
    assert re.search(r"pairs +│ 600 of 600 ", shown)
    assert re.search(r"bytes +│ " + f"{told['bytes']:,} ", shown)


def test_verify_counts_what_it_reads_and_ends_with_one_where_a_fault_is(store: tuple[Path, Index]) -> None:
    directory, index = store
    told = json.loads(invoke("verify", str(directory), "--json").output)
    assert (told["ok"], told["faults"], told["pairs"], told["shards"]) == (True, [], 600, len(index.shards))
    whole = invoke("verify", str(directory))
    assert whole.exit_code == 0
    assert f"{directory}: {len(index.shards)} shards, " in whole.output
    assert "600 pairs" in whole.output
    last = directory / "shards" / index.shards[-1].name
    content = last.read_bytes()
    try:
        last.write_bytes(content[:-1])
        damaged = invoke("verify", str(directory))
        assert damaged.exit_code == 1
        assert damaged.output.startswith(f"{last.name}: ")
        assert "2 faults" in damaged.output  # the file's length, and the number of pairs that are left
        assert json.loads(invoke("verify", str(directory), "--json").output)["ok"] is False
    finally:
        last.write_bytes(content)


def test_verify_computes_blocks_again(store: tuple[Path, Index]) -> None:
    directory, _ = store
    again = invoke("verify", str(directory), "--deep", "1")
    assert again.exit_code == 0
    assert "1 block computed again: the same bits\n" in again.output


def test_a_forecast_is_shown_to_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    forecast = Plan(
        pairs=1500,
        blocks=4,
        pairs_left=300,
        blocks_left=1,
        n=400,
        m=400,
        actors=2,
        actors_per_block=1,
        block_seconds=0.5,
        start_seconds=3.0,
        seconds=3600.0,
        actor_bytes=2**30,
        shards=2,
        shard_bytes=10**6,
        trial_seconds=4.0,
    )
    print_plan(forecast, as_json=True)
    assert Plan(**json.loads(capsys.readouterr().out)) == forecast
    print_plan(forecast, as_json=False)
    shown = capsys.readouterr().out
    assert re.search(r"left to do +│ 1 block, 300 pairs ", shown)
    assert re.search(r"actor hours +│ 2.00 ", shown)
    assert "potentials" not in shown


def test_an_override_of_no_step_of_the_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'steps=3': of no step of the demo; begin with couple\."):
        invoke("demo", str(tmp_path / "demo"), "train.train.steps=3", "steps=3")
    assert not (tmp_path / "demo").exists()


def test_verify_says_of_how_many_data_how_many_occur(store: tuple[Path, Index]) -> None:
    directory, _ = store
    ids = np.array([int(pair["data_id"]) for pair in PairStore(directory)])
    apart = np.abs(np.bincount(ids, minlength=1797) / len(ids) - 1 / 1797).sum()  # those that do not occur count
    said = f"\n{len(np.unique(ids)):,} of 1,797 data occur, in L1 {apart:.3f} from being drawn equally often"
    assert said in invoke("verify", str(directory)).output


def test_the_summary_of_a_chain_shows_every_leg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 4.0], [40, 50, 60])
    np.savez(tmp_path / "cells.npz", cells=rng.normal(size=(150, 3)).astype(np.float32), day=days)
    tree = {
        "data": {"path": str(tmp_path / "cells.npz"), "column": "cells", "label": None, "time": "day"},
        "source": {"kind": "previous"},
        "coupling": {"n": 64, "resample": "repeat", "rel_eps": 0.3},
        "output": {"pairs": 192, "payload": "ids"},
    }
    couple_here(settings(tmp_path / "pairs", **tree))
    print_summary(tmp_path / "pairs")
    shown = capsys.readouterr().out
    assert re.search(r"leg from 0 to 1 +│ 2 blocks of 40 x 50, E ", shown)
    assert re.search(r"leg from 1 to 4 +│ 1 block of 50 x 60, E ", shown)
    assert "3 blocks of up to 50 x 60" in shown


def test_the_list_of_jobs_has_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"id": "raysubmit_1", "status": "SUCCEEDED", "exit_code": 0, "started": 1000.0, "ended": 1060.0}
    job = SubmittedJob(**{name: fields.get(name) for name in SubmittedJob.__dataclass_fields__} | {"output": "/out"})
    print_jobs([job])
    header, line = capsys.readouterr().out.splitlines()
    assert [header.index(word) for word in ("status", "output")] == [line.index("SUCC"), line.index("/out")]


@pytest.mark.parametrize(("command", "says"), [("couple", "to go on"), ("evaluate", "starts over")])
def test_an_interruption_says_what_the_next_start_does(
    command: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(**SETTINGS)

    @app.command()
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", [command])
    with pytest.raises(SystemExit) as end:
        guarded(app, command)
    assert end.value.code == 130
    assert says in capsys.readouterr().err

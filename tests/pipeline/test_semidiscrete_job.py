"""Semi-discrete couplings on a real Ray: pairs that a plain loop finds too, whoever solved and whoever died."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.couplings import settings, shard_bytes
from support.matchings import BLIND, BY_CLASS, blocks, lenders, loop, pairs
from support.processes import couple_with_a_death, outside
from support.rowsets import column, stored
from typer import Typer
from typer.testing import CliRunner

from flowpairs.jobs.report import report
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.cluster.executor import blocks_of
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import assemble, couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.solve.inputs import read_inputs, save_inputs, survey_inputs
from flowpairs.pipeline.solve.potentials import PotentialSolver
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.format import read_index
from flowpairs.pipeline.store.potential_files import copy_potentials, load_potentials, problem_file
from flowpairs.pipeline.store.status import read_status
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.online import SemidiscreteStore

FAST = {"method": "semidiscrete", "n": 400, "rel_eps": None, "chi2": 0.5}
KINDS = [{"condition": "blind"}, {"condition": "extended", "beta": 0.001}, {"condition": "extended", "beta": 100.0}]


def solved(directory: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The potential, and the problems' reports without the time that they took."""
    notes = json.loads((directory / "potentials" / "semidiscrete.json").read_bytes())
    reports = [{k: v for k, v in problem.items() if k != "seconds"} for problem in notes["problems"]]
    return (directory / "potentials" / "g.npy").read_bytes(), reports


def same(directory: Path, other: Path) -> bool:
    """Whether two stores have the same potentials and the same bytes of pairs."""
    indices = [(store / "index.json").read_bytes() for store in (directory, other)]
    return solved(directory) == solved(other) and shard_bytes(directory) == shard_bytes(other) and len({*indices}) == 1


def first_block(config: CoupleConfig) -> Path:
    """Solve the potentials and assign the first block; leaves what a plain loop reads, and the block's report."""
    inputs = read_inputs(config, survey_inputs(config), None)
    job = assemble(config, inputs)
    resume.prepare_store(job.config, job.store)
    job = replace(job, inputs=save_inputs(inputs, job.store))
    _, reports = blocks_of(job, [])
    assert list(reports) == []
    found = BlockSolver(job.with_features(), 1, "cpu").solve(0)
    np.save(job.directory / "ids.npy", found.pairs.data_ids)
    (job.directory / "report.json").write_text(json.dumps(found.report))
    return Path(config.output.dir)


def test_pairs_are_those_of_a_plain_loop(blind: Path) -> None:
    found, x = pairs(blind), stored(blind)
    np.testing.assert_array_equal(found["data_ids"], loop(blind, range(1000)))
    np.testing.assert_array_equal(found["x1"], x[found["data_ids"]])
    np.testing.assert_array_equal(found["label"], column(blind)[found["data_ids"]])
    assert verify(blind).faults == []
    assert recompute(blind, 1) == []
    status = read_status(blind)
    assert (status.complete, status.blocks, status.pairs, status.worst_marginal_error) == (True, 3, 1000, None)


def test_masses_are_even_on_fresh_noise(blind: Path) -> None:
    """Counting alone (arXiv 2509.25519): N sum_j n_j (n_j - 1) / (B (B - 1)) - 1, within three standard deviations."""
    rows = 6_000
    hits = np.bincount(loop(blind, range(10**6, 10**6 + rows)), minlength=1797)
    chi2 = 1797 * (hits * (hits - 1.0)).sum() / (rows * (rows - 1)) - 1
    assert chi2 < BLIND["coupling"]["chi2"] + 3 * (2 * 1797) ** 0.5 / rows


def test_blocks_say_what_they_are(blind: Path, by_class: Path) -> None:
    for store, n, sizes in ((blind, 400, [400, 400, 200]), (by_class, 800, [800, 800])):
        known, rows = load_potentials(store), blocks(store)
        assert [row["n"] for row in rows] == sizes
        for row in rows:
            assert (row["method"], row["m"], row["converged"]) == ("semidiscrete", len(known.g), True)
            assert row["source_error"] is row["target_error"] is None
            assert row["chi2"] == known.chi2 < (BLIND if n == 400 else BY_CLASS)["coupling"]["chi2"]
            assert row["cost_coupled"] < 0.9 * row["cost_independent"]
            assert row["seconds"] > 0
        assert [row["rel_eps"] for row in rows] == [0.0 if n == 400 else 0.05] * len(rows)
        assert all(row["partners"] == 1.0 if n == 400 else row["partners"] > 1.1 for row in rows)
        assert all((row["relabelled"] > 0) == (n == 800) for row in rows)


def test_a_class_meets_its_own_data_equally_often(by_class: Path) -> None:
    """As few pairs are exchanged as there are pairs too many."""
    labels, found = np.tile(column(by_class), 2), pairs(by_class)["data_ids"]
    before = loop(by_class, range(1600))
    wanted = column(by_class)[lenders(by_class, range(1600))]
    np.testing.assert_array_equal(labels[before], wanted)
    np.testing.assert_array_equal(labels[found], wanted)
    assert set(before[before != found].tolist()) - set(range(1797)), "mirror images take part"
    for number, row in enumerate(blocks(by_class)):
        rows = slice(800 * number, 800 * (number + 1))
        counts = [np.bincount(ids[rows], minlength=len(labels)) for ids in (before, found)]
        for label in range(10):
            assert np.ptp(counts[1][labels == label]) <= 1
        surplus = (counts[0] - counts[1]).clip(0).sum()
        assert row["relabelled"] == (before[rows] != found[rows]).sum() == surplus
    assert verify(by_class).faults == []
    assert recompute(by_class, 2) == []
    assert len(load_potentials(by_class).reports) == 10


def test_balanced_draws_use_every_datum_equally_often(blind: Path, tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        features=BLIND["features"],
        coupling=BLIND["coupling"] | {"n": 2 * 1797},
        sampling={"draw": "balanced"},
        output={"pairs": 2 * 1797},
    )
    (tmp_path / "potentials").mkdir()
    copy_potentials(blind, tmp_path)
    ids, before = np.load(first_block(config) / "ids.npy"), loop(blind, range(2 * 1797))
    assert (np.bincount(ids) == 2).all()
    surplus = (np.bincount(before, minlength=1797) - 2).clip(0).sum()
    relabelled = json.loads((tmp_path / "report.json").read_bytes())["relabelled"]
    assert relabelled == (ids != before).sum() == surplus < 2 * 1797 / 2


def test_a_team_that_shares_the_data_writes_the_bytes_of_one_actor(
    blind: Path, tmp_path: Path, local_ray: None
) -> None:
    """And again what was lost of them, without another solve."""
    directory = tmp_path / "two"
    job = settings(directory, cluster={"actors": 2}, **BLIND)
    couple(job)
    assert same(directory, blind)
    solved_at = problem_file(directory, 0).stat().st_mtime_ns
    for name in ("potentials/g.npy", "shards/pairs-000004.tar"):
        (directory / name).unlink()
    couple(job)
    assert same(directory, blind)
    (directory / "potentials" / "g.npy").unlink()
    couple(job)
    assert same(directory, blind)
    assert problem_file(directory, 0).stat().st_mtime_ns == solved_at


@pytest.mark.nightly
def test_a_team_on_two_raylets_loses_a_member(blind: Path, tmp_path: Path) -> None:
    """A member is killed in the middle of a solve that records every round; the new team ends in the same bytes."""
    directory = tmp_path / "s"
    job = settings(directory, cluster={"actors": 2, "checkpoint_seconds": 0}, **BLIND)
    couple_with_a_death(job, tmp_path / "couple.yaml")
    assert same(directory, blind)
    assert not list(directory.glob("potentials/*.checkpoint.npz"))


@pytest.mark.nightly
def test_a_driver_killed_in_mid_solve_goes_on_there(blind: Path, tmp_path: Path) -> None:
    directory, config = tmp_path / "s", tmp_path / "couple.yaml"
    job = settings(directory, cluster={"actors": 1, "checkpoint_seconds": 0}, **BLIND)
    config.write_text(json.dumps(job.model_dump(mode="json")))  # JSON is YAML
    command = [sys.executable, "-m", "jobs.couple", str(config)]
    with subprocess.Popen(command, env=outside(), start_new_session=True, stderr=subprocess.DEVNULL) as driver:
        while not list(directory.glob("potentials/p*.checkpoint.npz")):
            assert driver.poll() is None, "the job ended before it was killed"
            time.sleep(0.002)
        os.killpg(driver.pid, signal.SIGKILL)
    record = directory / "potentials" / "p000000.checkpoint.npz"
    with np.load(record) as arrays:  # g, and how far the solve has come: rounds among them
        assert len(arrays["g"]) == 1797
    assert not problem_file(directory, 0).exists()
    couple(job)
    assert same(directory, blind)
    assert not record.exists()


def test_other_payloads_are_whole_stores_too(blind: Path, tmp_path: Path) -> None:
    convert(blind, tmp_path / "ids", "ids")
    convert(tmp_path / "ids", tmp_path / "seeded", "seeded")
    convert(tmp_path / "seeded", tmp_path / "full", "full")
    assert shard_bytes(tmp_path / "full") == shard_bytes(blind)
    for payload in ("ids", "seeded", "full"):
        directory = tmp_path / payload
        assert verify(directory).faults == []
        assert solved(directory) == solved(blind)
        np.testing.assert_array_equal(pairs(directory)["data_ids"], pairs(blind)["data_ids"])
        before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
        parts = {part: values for part, values in BLIND.items() if part != "output"}
        couple(settings(directory, **parts, output=BLIND["output"] | {"payload": payload}))
        assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["potentials/g.npy", "rows/part-00000.npy", "rows/label.npy", "features/part-00000.npy"]
)
def test_damaged_potentials_and_data_are_faults(blind: Path, tmp_path: Path, name: str) -> None:
    convert(blind, tmp_path, "ids")
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).unlink()  # another name of the file in the fixture's store
    (tmp_path / name).write_bytes(content)
    assert [fault for fault in verify(tmp_path).faults if name in fault]


@pytest.mark.parametrize("coupling", KINDS, ids=["blind", "beta small", "beta large"])
def test_conditions_extend_the_cost(tmp_path: Path, coupling: dict[str, Any]) -> None:
    """A small weight is nearly blind: labels agree as often as chance has it. A large one comes near one class each."""
    options = {"method": "semidiscrete", "n": 1000, "rel_eps": None, "chi2": 0.3} | coupling
    config = settings(tmp_path, features={"pca": 24}, coupling=options, output={"pairs": 1000})
    ids = np.load(first_block(config) / "ids.npy")
    np.testing.assert_array_equal(ids, loop(tmp_path, range(1000)))
    labels = column(tmp_path)
    share = (labels[ids] == labels[lenders(tmp_path, range(1000))]).mean()
    assert share > 0.9 if coupling.get("beta") == 100.0 else share == pytest.approx(0.1, abs=0.04)


def test_continuous_conditions_come_from_a_file(tmp_path: Path) -> None:
    """The brightness of an image and where it is brightest, with mirror images and eps > 0."""
    images = stored(first_block(settings(tmp_path / "blind", coupling=FAST)))[:, 0]
    z = np.stack([images.mean((1, 2)), images.argmax(1).mean(1)], 1)
    z = ((z - z.mean(0)) / z.std(0)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    extended = {"condition": "extended", "beta": 10.0, "condition_file": str(tmp_path / "z.npy"), "rel_eps": 0.02}
    config = settings(tmp_path / "z", data={"flips": True}, coupling=FAST | extended)
    ids = np.load(first_block(config) / "ids.npy")
    np.testing.assert_array_equal(ids, loop(tmp_path / "z", range(len(ids))))
    far = [
        np.square(z[np.load(tmp_path / name / "ids.npy") % 1797] - z[lenders(tmp_path / "z", range(400))]).mean()
        for name in ("blind", "z")
    ]
    assert far[1] < far[0] / 4


@pytest.fixture(scope="module")
def started(blind: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sinkhorn blocks that start from semi-discrete potentials, and potentials alone that start from theirs."""
    root, features = tmp_path_factory.mktemp("started"), BLIND["features"]
    sinkhorn = {"n": 1700, "rel_eps": 0.02, "start": str(blind)}
    couple(settings(root / "sinkhorn", features=features, coupling=sinkhorn, output={"pairs": 1700}))
    again = BLIND["coupling"] | {"start": str(root / "sinkhorn")}
    couple(settings(root / "alone", features=features, coupling=again, output={"pairs": 0}))
    return root / "sinkhorn", root / "alone"


def test_each_method_starts_from_the_other(blind: Path, started: tuple[Path, Path], tmp_path: Path) -> None:
    """Both converge. A sample's potential is so quickly found from its moments that another's saves nothing there, and
    a semi-discrete solve has fewer rounds, but not fewer points: its rounds are large ones from the start.
    """
    sinkhorn, alone = started
    cold = {"n": 1700, "rel_eps": 0.02}
    couple(settings(tmp_path, features=BLIND["features"], coupling=cold, output={"pairs": 1700}))
    warm_row, cold_row = blocks(sinkhorn)[0], blocks(tmp_path)[0]
    assert warm_row["converged"]
    assert warm_row["passes"] <= cold_row["passes"] + 1
    (warm,), (before,) = solved(alone)[1], solved(blind)[1]
    assert warm["converged"]
    assert warm["rounds"] <= before["rounds"]
    assert recompute(sinkhorn, 1) == []


def test_a_start_is_pinned_by_its_potentials(blind: Path, started: tuple[Path, Path], tmp_path: Path) -> None:
    sinkhorn, _ = started
    job = {"n": 1700, "rel_eps": 0.02, "start": str(blind)}
    (tmp_path / "s" / "potentials").mkdir(parents=True)
    (tmp_path / "s" / "potentials" / "b000000.npy").touch()
    (tmp_path / "s" / "config.yaml").write_bytes((sinkhorn / "config.yaml").read_bytes())
    other = job | {"start": str(started[1])}
    with pytest.raises(InputError, match=r"coupling\.start_fingerprint \('[0-9a-f]{64}' there"):
        couple(settings(tmp_path / "s", features=BLIND["features"], coupling=other, output={"pairs": 1700}))
    with pytest.raises(InputError, match=r"coupling\.start_fingerprint='00': what was read has '[0-9a-f]{64}'"):
        couple(settings(tmp_path / "t", coupling=job | {"start_fingerprint": "00"}))
    with pytest.raises(InputError, match=r"coupling\.start='.*': holds pairs of other data"):
        couple(settings(tmp_path / "u", data={"flips": True}, coupling=job))


def test_potentials_alone_are_a_store(started: tuple[Path, Path], tmp_path: Path) -> None:
    """Its report shows the pairs that its potentials make."""
    directory = started[1]
    assert (verify(directory).faults, verify(directory).pairs) == ([], 0)
    status = read_status(directory)
    assert (status.complete, status.pairs_total) == (True, 0)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    coupling = BLIND["coupling"] | {"start": str(started[0])}
    couple(settings(directory, features=BLIND["features"], coupling=coupling, output={"pairs": 0}))
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    text = page(directory, tmp_path)
    for datum in loop(directory, range(12)):
        assert f"id {datum:,} " in text
    convert(directory, tmp_path / "ids", "ids")
    assert solved(tmp_path / "ids") == solved(directory)


def page(directory: Path, tmp_path: Path) -> str:
    """What `flowpairs report` writes."""
    app = Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(directory), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 0, result.output
    return (tmp_path / "report.html").read_text()


def test_the_report_says_how_good_the_potentials_are(blind: Path, by_class: Path, tmp_path: Path) -> None:
    for store, conditions_ in ((blind, "1 problem; conditions: blind"), (by_class, "10 problems; conditions: class")):
        text, known = page(store, tmp_path), load_potentials(store)
        assert conditions_ in text
        assert f"<dd>{sum(report['points'] for report in known.reports):,}<small>" in text
        assert "Worst marginal error" not in text
        assert ("Pairs exchanged" in text) == (store is by_class)


def test_a_solve_that_does_not_converge_fails_the_job(tmp_path: Path) -> None:
    hopeless = BLIND["coupling"] | {"max_passes": 1}
    with pytest.raises(JobError, match=r"the potential of problem 0 reached chi2=.* instead of 0\.05 after 1 rounds"):
        couple(settings(tmp_path / "failed", coupling=hopeless, output={"pairs": 0}))
    assert not problem_file(tmp_path / "failed", 0).exists()


def test_a_solve_is_watched_from_its_files(tmp_path: Path) -> None:
    """In the middle, as another process sees it, and at the end, when nothing but the potential is left."""
    config = settings(tmp_path, features=BLIND["features"], coupling=BLIND["coupling"], output={"pairs": 0})
    job = assemble(config, read_inputs(config, survey_inputs(config), None))
    resume.prepare_store(job.config, tmp_path)
    solver = PotentialSolver(job.with_features(), 1, "cpu")
    assert read_status(tmp_path).potentials == 0.0
    solved = solver.solve(0)
    status = read_status(tmp_path)
    assert 0.0 < status.potentials < 1.0
    assert re.fullmatch(r"round \d+  [\d,]+ points  chi2 \d\S* of 0\.05", status.solve)
    solver.write(solved)
    assert (read_status(tmp_path).potentials, [path.name for path in (tmp_path / "potentials").iterdir()]) == (
        1.0,
        ["p000000.npz"],
    )


@pytest.mark.parametrize("condition", [{}, {"condition": "class"}, {"condition": "extended", "beta": 0.5}], ids=str)
@pytest.mark.parametrize("rel_eps", [None, 0.05])
def test_weights_say_how_often_data_and_classes_are_used(
    tmp_path: Path, condition: dict[str, Any], rel_eps: float | None
) -> None:
    """Data of weight 0 take no part; the job, its loader, its check and its report agree on it."""
    random = np.random.default_rng(0)
    x, labels, weight = random.normal(size=(120, 3)).astype(np.float32), np.arange(120) % 3, random.uniform(0, 1, 120)
    weight[:10], weight[labels == 2] = 0, 4 * weight[labels == 2]
    np.savez(tmp_path / "data.npz", x=x, label=labels, weight=weight)
    config = settings(
        tmp_path / "store",
        data={"path": str(tmp_path / "data.npz"), "column": "x", "label": "label", "weight": "weight", "flips": False},
        coupling={"method": "semidiscrete", "n": 2000, "rel_eps": rel_eps, "chi2": 0.02, **condition},
        sampling={"draw": "balanced"},
        output={"pairs": 6000, "pairs_per_shard": 2000},
    )
    couple(config)
    found = pairs(tmp_path / "store")
    counts = np.bincount(found["data_ids"], minlength=120)
    share = weight / weight.sum()
    assert counts[weight == 0].sum() == 0
    if not condition:  # each block uses every datum as often as its weight says, rounded up or down
        assert np.abs(counts - 6000 * share).max() < 3
    else:  # conditions are drawn at random
        assert np.abs(np.bincount(found["label"]) / 6000 - np.bincount(labels, share)).max() < 0.03
    fresh = SemidiscreteStore(tmp_path / "store", read_index(tmp_path / "store"))
    drawn = np.bincount(fresh.pairs(10**6, 20_000)[1], minlength=120) / 20_000
    seen = weight > 0
    assert drawn[~seen].sum() == 0
    assert (np.square(drawn - share)[seen] / share[seen]).sum() < 0.02 * (3 if condition else 1) + 3 * 110 / 20_000
    verdict = verify(tmp_path / "store")
    assert verdict.faults == []
    assert verdict.draw_error < 2 * verdict.chance_error
    assert recompute(tmp_path / "store", 1) == []
    (tmp_path / "store" / "rows" / "weight.npy").unlink()
    with pytest.raises(InputError, match=r"rows/weight\.npy: cannot be read"):
        SemidiscreteStore(tmp_path / "store", read_index(tmp_path / "store")).pairs(0, 1)
    assert json.loads((tmp_path / "store" / "index.json").read_bytes())["pairs"] == 6000
    couple(config)
    np.testing.assert_array_equal(column(tmp_path / "store", "weight"), weight)

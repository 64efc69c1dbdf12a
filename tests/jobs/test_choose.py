"""`plan --choose`: candidates stand in the order of pairs that are really made, and what is proposed can be had."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.couplings import couple_here
from typer.testing import CliRunner, Result

from flowpairs.jobs._choose import Candidate, Choice, Grid, best, choose_coupling
from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.plan import plan, survey_plan
from flowpairs.training.metrics.worth import EULER, Worth, worth_of_stores

Make = Callable[[list[str]], CoupleConfig]
DIGITS = "data: {path: digits, label: label}\ncoupling: {n: 400, sharpness: 0.1}\n"
HERE = "cluster: {actors: 0}\n"


def config_at(directory: Path, text: str, pairs: int = 2048) -> Path:
    path = directory / "couple.yaml"
    path.write_text(f"{text}output: {{dir: {directory / 'out'}, pairs: {pairs}}}\n{HERE}")
    return path


def maker(path: Path) -> Make:
    return lambda overrides: load(CoupleConfig, path, overrides)


def command(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(application(), list(arguments))


def dry_run(path: Path, candidate: Candidate) -> Result:
    return command("couple", str(path), *candidate.overrides, "--dry-run")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Choice]:
    path = config_at(tmp_path_factory.mktemp("digits"), DIGITS)
    return path, choose_coupling(maker(path), 1e3, sizes=(64, 2048))


def test_candidates_stand_in_the_order_of_pairs_that_are_really_coupled(digits: tuple[Path, Choice]) -> None:
    path, found = digits
    assert [file.name for file in path.parent.iterdir()] == ["couple.yaml"], "nothing is written"
    assert [(one.method, one.rel_eps) for one in found.candidates if one.n == 2048] == [
        ("independent", None),
        *(("sinkhorn", eps) for eps in (0.03, 0.1, 0.3)),
        ("semidiscrete", 0.0),
    ]
    stores = []
    for number, one in enumerate(found.candidates):
        stores.append(path.parent / f"store{number}")
        couple_here(load(CoupleConfig, path, [*one.overrides, f"output.dir={stores[-1]}"]))
    truth = worth_of_stores(stores, 1024)
    estimated = [one.worth for one in found.candidates if one.worth is not None]
    assert len(estimated) == len(truth) == 8
    assert spearmanr([one.floor for one in estimated], [store.whole.floor for store in truth])[0] > 0.9
    for one, store in zip(estimated, truth, strict=True):
        assert one.floor == pytest.approx(store.whole.floor, rel=0.1)
    floors = {one.name: one.worth.floor for one in found.candidates if one.worth}
    assert floors[found.proposal.name] <= 1.03 * min(floors.values())


def test_hours_are_those_of_the_forecast_of_the_one_job(digits: tuple[Path, Choice]) -> None:
    path, found = digits
    one = next(one for one in found.candidates if one.name == "sinkhorn n=2,048 rel_eps=0.03")
    forecast = plan(load(CoupleConfig, path, list(one.overrides)))
    assert (forecast.actors, forecast.gpus_per_actor) == (1, 0)
    assert forecast.device_hours == forecast.seconds / 3600
    assert 0.1 < one.hours / forecast.device_hours < 10  # the same model of the same job, timed at another moment
    assert replace(forecast, actors=4, gpus_per_actor=0.5).device_hours == pytest.approx(2 * forecast.seconds / 3600)


def test_every_proposal_is_a_config_that_couple_takes(digits: tuple[Path, Choice]) -> None:
    path, found = digits
    for one in found.candidates:
        answer = dry_run(path, one)
        assert answer.exit_code == 0, answer.output
        assert one.method in answer.stdout
    assert not (path.parent / "out").exists()


def test_what_is_over_the_budget_is_neither_tried_nor_proposed(tmp_path: Path) -> None:
    path = config_at(tmp_path, DIGITS)
    config, surveyed = survey_plan(load(CoupleConfig, path))
    grid = Grid(maker(path), config, surveyed, (64, 256), None)
    found, device = grid.forecast()
    assert device == "actor"
    dear = [replace(one, hours=5.0 if one.method == "semidiscrete" or one.n == 256 else 0.5) for one in found]
    answered = grid.estimate(dear, 1.0)
    assert [one.worth is not None for one in answered] == [one.hours < 1 for one in dear]
    assert sum(one.worth is not None for one in answered) == 3
    assert best(answered).name == "sinkhorn n=64 rel_eps=0.03"


def test_the_cheapest_of_level_floors_is_proposed() -> None:
    def candidate(name: str, hours: float, floor: float | None) -> Candidate:
        worth = None if floor is None else Worth(1024, floor, 1.0, dict.fromkeys(EULER, 1.0))
        return Candidate(name, 8, None, (), hours=hours, worth=worth)

    row = [candidate("far", 0.1, 10.4), candidate("level", 1, 10.2), candidate("least", 9, 10.0)]
    assert best([*row, candidate("unknown", 0, None)]).method == "level"
    assert best([*row, candidate("lower", 20, 9.0)]).method == "lower"


def test_what_is_too_dear_to_try_is_taken_from_the_trend(tmp_path: Path, digits: tuple[Path, Choice]) -> None:
    path = config_at(tmp_path, DIGITS, pairs=16_384)
    found = choose_coupling(maker(path), 1e3, sizes=(64, 256, 16_384), work=2.0**31)
    rows = {one.name: one for one in found.candidates}
    sharp = rows["sinkhorn n=16,384 rel_eps=0.03"]
    assert sharp.worth is not None
    assert sharp.tried == (64, 256)
    assert sharp.last == rows["sinkhorn n=256 rel_eps=0.03"].worth
    tried = next(one for one in digits[1].candidates if one.name == "sinkhorn n=2,048 rel_eps=0.03")
    assert tried.worth is not None
    assert tried.last is None
    assert sharp.worth.floor == pytest.approx(tried.worth.floor, rel=0.1)
    assert rows["semidiscrete rel_eps=0"].tried == (256,), "random parts of the data"


@pytest.mark.parametrize("two_sided", [False, True])
def test_images_with_flips_and_features_and_two_data_sets(tmp_path: Path, two_sided: bool) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 255, (500, 8, 8, 3), np.uint8), y=rng.integers(0, 3, 500))
    np.savez(tmp_path / "z.npz", z=rng.integers(0, 255, (400, 8, 8, 3), np.uint8))
    text = f"data: {{path: {tmp_path / 'x.npz'}, column: x, label: y, flips: {'false' if two_sided else 'true'}}}\n"
    text += f"source: {{kind: data, path: {tmp_path / 'z.npz'}, column: z}}\n" if two_sided else ""
    path = config_at(tmp_path, text + "features: {pca: 16}\ncoupling: {n: 100, eps: 3.0, backend: torch}\n")
    before = sorted(tmp_path.iterdir())
    found = choose_coupling(maker(path), 1e3, sizes=(256,))
    assert sorted(tmp_path.iterdir()) == before
    tried = [one for one in found.candidates if one.worth is not None]
    assert [one.method for one in tried] == ["independent", *["sinkhorn"] * 3, *([] if two_sided else ["semidiscrete"])]
    for one in tried:
        assert dry_run(path, one).exit_code == 0
    if two_sided:
        assert "takes noise as its source" in found.candidates[-1].refused


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("coupling.regions=4", r"coupling\.regions: not part of what --choose compares; remove it to choose"),
        ("output.pairs=0", r"output\.pairs=0: a budget is for pairs"),
        ("coupling.table=t.npz", r"coupling\.method='imported': its pairs come from elsewhere"),
        ("data.time=label", r"source\.kind='previous': a chain over time"),
        ("coupling.condition=class", r"coupling\.condition: not part"),
    ],
)
def test_where_choosing_makes_no_sense_is_a_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    more = {
        "coupling.regions=4": ["coupling.rel_eps=0.1"],
        "output.pairs=0": ["coupling.method=semidiscrete", "coupling.rel_eps=0"],
        "coupling.table=t.npz": ["coupling.method=imported", "coupling.sharpness=null"],
        "data.time=label": ["source.kind=previous"],
        "coupling.condition=class": ["coupling.method=semidiscrete", "coupling.rel_eps=0"],
    }
    path = config_at(tmp_path, DIGITS)
    with pytest.raises(InputError, match=sentence):
        choose_coupling(lambda lines: load(CoupleConfig, path, [override, *more[override], *lines]), 1.0)


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf"])
def test_a_budget_that_is_none_is_refused(tmp_path: Path, budget: str) -> None:
    answer = command("plan", str(config_at(tmp_path, DIGITS)), "--choose", budget)
    assert isinstance(answer.exception, InputError)
    assert str(answer.exception) == f"--choose={float(budget):g}: no budget; give a positive number of hours"


def test_a_budget_below_all_and_a_store_that_has_pairs_are_refused(tmp_path: Path) -> None:
    path = config_at(tmp_path, DIGITS, pairs=600)
    with pytest.raises(InputError, match=r"--choose=1e-09: the cheapest, .* takes about .* actor hours; give more"):
        choose_coupling(maker(path), 1e-9, sizes=(256,))
    couple_here(load(CoupleConfig, path))
    with pytest.raises(InputError, match=r"output\.dir='.*out': holds pairs already"):
        choose_coupling(maker(path), 1.0)


def test_the_command_prints_a_table_and_the_proposal_or_json(tmp_path: Path) -> None:
    path = config_at(tmp_path, DIGITS, pairs=256)
    answer = command("plan", str(path), "--choose", "100")
    assert answer.exit_code == 0
    assert "pairs for 100 actor hours" in answer.stdout
    assert "figures from 1,024 pairs, on 256 others, over 64 directions, 100 % of the variance" in answer.stdout
    lines = answer.stdout.splitlines()
    proposal = next(line for line in lines if line.startswith("  coupling.method="))
    assert command("couple", str(path), *proposal.split(), "--dry-run").exit_code == 0
    found = json.loads(command("plan", str(path), "--choose", "100", "--json").stdout)
    assert [one["method"] for one in found["candidates"]] == ["independent", *["sinkhorn"] * 3, "semidiscrete"]
    assert set(found["proposal"]["worth"]["errors"]) == {str(k) for k in EULER}
    assert (found["budget"], found["device"]) == (100, "actor")

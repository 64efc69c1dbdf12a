"""The verdict says what the figures say: in both directions, at ties, with figures missing and with NaN."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowpairs.training.report.seeds import Mean, RunGroup, group_runs
from flowpairs.training.report.summaries.runs import read_run
from flowpairs.training.report.terminal import print_comparison
from flowpairs.training.report.verdict import (
    Score,
    caveats,
    chance,
    floor,
    headline,
    number,
    scores,
    sentences,
)

Make = Callable[..., Path]  # what the fixtures make_store and make_run are


def read(*paths: Path) -> list[RunGroup]:
    return group_runs([read_run(path, path.name) for path in paths])


def means(*values: float | None) -> list[Mean | None]:
    return [None if value is None else Mean.of([value]) for value in values]


def test_ot_ahead_on_everything(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0))
    table = scores(runs)
    assert [score.label.replace("\N{NO-BREAK SPACE}", " ") for score in table] == [
        "Curvature", "Euler 4", "Euler 8", "Euler 16", "dopri5",
    ]  # fmt: skip
    assert headline(runs, table) == "Optimal-transport pairs won on all 4 Fréchet distances"
    won, lost, apart = sentences(runs, table)
    assert won.startswith("sharp (exact pairs) won on Fréchet distance at Euler")
    assert won.endswith("and dopri5 (4.85 against 9.70).")
    assert lost == "plain (independent pairs) did not win on any Fréchet distance."
    assert apart.startswith("sharp has the lowest curvature (0.412 against 0.824); it is not counted")


def test_ot_behind_on_everything(make_run: Make) -> None:
    runs = read(make_run("sharp", scale=1.5), make_run("plain", method="independent"))
    table = scores(runs)
    assert headline(runs, table) == "Optimal-transport pairs won on none of the Fréchet distances"
    lost, won, apart = sentences(runs, table)
    assert lost == "sharp (exact pairs) did not win on any Fréchet distance."
    assert won.startswith("plain (independent pairs) won on Fréchet distance at Euler")
    assert apart.startswith("plain has the lowest curvature (0.412 against 0.618)")


def test_each_measure_goes_to_its_own_winner(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0, fd={"dopri5": 4.2}))
    table = scores(runs)
    assert [score.best for score in table] == [[0], [0], [0], [0], [1]]
    assert headline(runs, table) == "Optimal-transport pairs won on 3 of 4 Fréchet distances"
    assert "dopri5" not in sentences(runs, table)[0]
    assert sentences(runs, table)[1] == (
        "plain (independent pairs) won on Fréchet distance at dopri5 (4.20 against 4.85)."
    )


def test_a_tie_has_no_winner(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0, fd={"dopri5": 4.85}))
    table = scores(runs)
    assert table[-1].best == [0, 1]
    assert headline(runs, table) == "Optimal-transport pairs won on 3 of 4 Fréchet distances"
    assert "sharp and plain are level on Fréchet distance at dopri5 (4.85)." in sentences(runs, table)


def test_best_is_the_least_finite_figure() -> None:
    """Against NumPy's nanmin, over every arrangement of a missing, a NaN, an infinite and two finite figures."""
    figures = [None, math.nan, math.inf, 2.0, 1.0]
    for shift in range(len(figures)):
        values = figures[shift:] + figures[:shift]
        best = Score("Euler 4", means(*values), [None] * 5).best
        assert [values[place] for place in best] == [np.nanmin([value or math.nan for value in values])]
    assert Score("Euler 4", means(1.0, None), [None, None]).best == []
    assert Score("Euler 4", means(math.nan, math.nan), [None, None]).best == []


def test_seeds_are_taken_together(make_run: Make) -> None:
    """Means and standard deviations are those of NumPy; a difference within two standard errors is level."""
    figures = {"sharp": (3.0, 3.4, 3.2), "plain": (4.0, 4.4, 4.2), "near": (3.1, 3.6, 3.2)}
    runs = []
    for name, values in figures.items():
        for seed, value in enumerate(values):
            run = make_run(f"{name}-seed{seed}", method=name, fd=dict.fromkeys(("euler4", "euler8"), value))
            (run / "config.yaml").write_text(f"train: {{steps: 400, seed: {seed}}}\nname: {name}\n")
            runs.append(run)
    groups = read(*runs)
    assert [(group.name, len(group.runs)) for group in groups] == [("sharp", 3), ("plain", 3), ("near", 3)]
    euler = scores(groups)[1]
    for mean, values in zip(euler.means, figures.values(), strict=True):
        assert mean is not None
        assert (mean.value, mean.spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert euler.best == [0, 2]
    assert "sharp and near are level on Fréchet distance at Euler\N{NO-BREAK SPACE}4 (3.20 ± 0.2 and 3.30 ± 0.26)" in (
        " ".join(sentences(groups, scores(groups)))
    )
    assert chance(groups).startswith("Means over 3 seeds")
    assert chance(groups[:1] + read(make_run("other", steps=300))).startswith("Means over 1 to 3 seeds")


def test_the_floor_is_the_mean_over_runs(make_run: Make) -> None:
    paths = [make_run("first"), make_run("second", method="independent")]
    assert floor(read(*paths)) is None
    for path, value in zip(paths, (1.0, 2.0), strict=True):
        tree = json.loads((path / "evaluation.json").read_text())
        (path / "evaluation.json").write_text(json.dumps(tree | {"floor": value}))
    found = floor(read(*paths))
    assert found is not None
    assert found.value == 1.5


def test_a_diverged_run_loses(make_run: Make) -> None:
    sharp, plain = make_run("sharp", fd={"euler4": math.nan}), make_run("plain", method="independent", scale=2.0)
    runs = read(sharp, plain)
    assert sentences(runs, scores(runs))[1].endswith("(63.0 against not finite).")


def test_an_adaptive_solver_is_one_column_whatever_it_took(make_run: Make) -> None:
    first, second = make_run("first"), make_run("second", method="independent")
    tree = json.loads((second / "evaluation.json").read_text())
    tree["frechet"][-1]["nfe"] = 122.0
    (second / "evaluation.json").write_text(json.dumps(tree))
    last = scores(read(first, second))[-1]
    assert (last.label, last.nfe) == ("dopri5", [86.4, 122.0])


@pytest.mark.parametrize(("key", "value", "named"), [("samples", 500, "samples"), ("seed", 3, "seeds")])
def test_unlike_evaluations_are_told(make_run: Make, key: str, value: int, named: str) -> None:
    first, second = make_run("first"), make_run("second", method="independent")
    assert caveats(read(first, second)) == []
    tree = json.loads((second / "evaluation.json").read_text())
    (second / "evaluation.json").write_text(json.dumps(tree | {key: value}))
    [caveat] = caveats(read(first, second))
    assert named in caveat
    assert f"second {value}" in caveat


@pytest.mark.parametrize("value", [0.000123456, 0.00123456, 0.5, 9.999, 64.0, 123.456, 1234.56, 1e6])
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.05 if value < 1e-3 else 5e-3)


def test_the_terminal_says_the_same(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    directories = [make_run("sharp"), make_run("plain", method="independent", scale=2.0)]
    print_comparison(directories)
    printed = " ".join(capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ").split())
    runs = read(*directories)
    for sentence in [headline(runs, scores(runs)), *sentences(runs, scores(runs))]:
        assert sentence.replace("\N{NO-BREAK SPACE}", " ") in printed
    assert "*0.412" in printed
    assert "*0.824" not in printed

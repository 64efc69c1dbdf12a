"""The verdict says what the figures say: in both directions, at ties, with figures missing and with NaN."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowpairs.training.report.runs import Run, read_run
from flowpairs.training.report.terminal import print_comparison
from flowpairs.training.report.verdict import Score, caveats, headline, number, scores, sentences

Make = Callable[..., Path]  # what the fixtures make_store and make_run are


def read(*paths: Path) -> list[Run]:
    return [read_run(path, path.name) for path in paths]


def test_ot_ahead_on_everything(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0))
    table = scores(runs)
    assert [score.label.replace("\N{NO-BREAK SPACE}", " ") for score in table] == [
        "Curvature", "Euler 4", "Euler 8", "Euler 16", "dopri5",
    ]  # fmt: skip
    assert headline(runs, table) == "Optimal-transport pairs won on all 5 measures"
    won, lost = sentences(runs, table)
    assert won.startswith("sharp (exact pairs) won on curvature (0.412 against 0.824), Fréchet distance at Euler")
    assert won.endswith("and dopri5 (4.85 against 9.70).")
    assert lost == "plain (independent pairs) did not win on any measure."


def test_ot_behind_on_everything(make_run: Make) -> None:
    runs = read(make_run("sharp", scale=1.5), make_run("plain", method="independent"))
    table = scores(runs)
    assert headline(runs, table) == "Optimal-transport pairs won on none of the measures"
    lost, won = sentences(runs, table)
    assert lost == "sharp (exact pairs) did not win on any measure."
    assert won.startswith("plain (independent pairs) won on curvature (0.412 against 0.618)")


def test_each_measure_goes_to_its_own_winner(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0, fd={"dopri5": 4.2}))
    table = scores(runs)
    assert [score.best for score in table] == [[0], [0], [0], [0], [1]]
    assert headline(runs, table) == "Optimal-transport pairs won on 4 of 5 measures"
    assert "dopri5" not in sentences(runs, table)[0]
    assert sentences(runs, table)[1] == (
        "plain (independent pairs) won on Fréchet distance at dopri5 (4.20 against 4.85)."
    )


def test_a_tie_has_no_winner(make_run: Make) -> None:
    runs = read(make_run("sharp"), make_run("plain", method="independent", scale=2.0, fd={"dopri5": 4.85}))
    table = scores(runs)
    assert table[-1].best == [0, 1]
    assert headline(runs, table) == "Optimal-transport pairs won on 4 of 5 measures"
    assert sentences(runs, table)[-1] == "sharp and plain are level on Fréchet distance at dopri5 (4.85)."


def test_best_is_the_least_finite_figure() -> None:
    """Against NumPy's nanmin, over every arrangement of a missing, a NaN, an infinite and two finite figures."""
    figures = [None, math.nan, math.inf, 2.0, 1.0]
    for shift in range(len(figures)):
        values = figures[shift:] + figures[:shift]
        best = Score("Curvature", values, [None] * 5).best
        assert [values[place] for place in best] == [np.nanmin([value or math.nan for value in values])]
    assert Score("Curvature", [1.0, None], [None, None]).best == []
    assert Score("Curvature", [math.nan, math.nan], [None, None]).best == []


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

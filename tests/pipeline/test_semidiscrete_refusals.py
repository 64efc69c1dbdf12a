"""Semi-discrete jobs that are refused, each in a sentence, before any work starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.couplings import settings

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.couple import couple

FAST = {"method": "semidiscrete", "n": 400, "rel_eps": None, "chi2": 0.5}


@pytest.mark.parametrize(
    ("coupling", "message"),
    [
        ({"sharpness": 0.1}, "sharpness belongs to method sinkhorn"),
        ({"cost": "sqeuclidean"}, "cost='sqeuclidean': method semidiscrete searches inner products"),
        ({"condition": "extended"}, "condition='extended' needs beta"),
        ({"condition": "class", "beta": 1.0}, "beta and condition_file belong to condition extended"),
        ({"condition_file": "z.npy"}, "beta and condition_file belong to condition extended"),
        ({"backend": "keops"}, "backend='keops' does not serve method semidiscrete"),
        ({"chi2": 1.5}, "coupling.chi2=1.5"),
        ({"method": "sinkhorn", "rel_eps": 0}, "rel_eps=0: an unregularised plan is method exact or semidiscrete"),
        ({"method": "sinkhorn", "condition": "class"}, "condition='class' belongs to method semidiscrete"),
        ({"method": "exact", "start": "s"}, "start belongs to methods sinkhorn and semidiscrete, not to exact"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(coupling: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        settings(Path("s"), coupling={"method": "semidiscrete", "rel_eps": None} | coupling)
    assert "\n" not in str(refused.value)


def test_the_rest_of_the_config_is_held_against_the_method() -> None:
    with pytest.raises(InputError, match=r"output\.pairs=0: potentials alone serve method semidiscrete"):
        settings(Path("s"), output={"pairs": 0})
    with pytest.raises(InputError, match=r"cluster\.actors_per_block=2: method semidiscrete works on one actor"):
        settings(Path("s"), coupling=FAST, cluster={"actors_per_block": 2})


def test_conditions_that_are_not_there_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", image=np.zeros((9, 2), np.float32))
    unlabelled = {"path": str(tmp_path / "unlabelled.npz"), "label": None}
    for condition in ({"condition": "class"}, {"condition": "extended", "beta": 1.0}):
        with pytest.raises(InputError, match=r"coupling\.condition='\w+': the data have no labels; give data\.label"):
            couple(settings(tmp_path / "s", data=unlabelled, coupling=FAST | condition))
    for name, z in {"short": np.zeros(5), "nan": np.full(1797, np.nan), "text": np.full(1797, "a")}.items():
        np.save(tmp_path / f"{name}.npy", z)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for name, message in {
        "short": r"\[5\] of float64; give numbers, a row for each of 1797 data",
        "nan": "has NaN or Inf; fill or remove those data",
        "text": r"\[1797\] of <U1; give numbers",
        "broken": r"cannot be read as \.npy",
        "missing": r"cannot be read as \.npy",
    }.items():
        extended = {"condition": "extended", "beta": 1.0, "condition_file": str(tmp_path / f"{name}.npy")}
        with pytest.raises(InputError, match=rf"coupling\.condition_file='.*{name}\.npy': {message}") as refused:
            couple(settings(tmp_path / "s", coupling=FAST | extended))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "s").exists()

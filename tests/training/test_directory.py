"""What is refused before Ray is started, each in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from support.stores import write_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import from_overrides, load, validate
from flowpairs.training.config import EvaluateConfig, RunConfig, TrainConfig
from flowpairs.training.run.directory import check_run, prepare_run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    x = np.zeros((32, 4), np.float32)
    write_store(tmp_path / "store", x, x)
    return tmp_path / "store"


def config(store: Path, **train: object) -> TrainConfig:
    plain = {
        "pairs": {"dir": str(store)},
        "model": {"kind": "mlp", "width": 8, "depth": 1},
        "train": {"steps": 200, "batch": 16, **train},
        "output": {"dir": str(store.parent / "run")},
    }
    return validate(TrainConfig, plain)


def test_a_name_that_no_file_can_have_is_refused(store: Path) -> None:
    long = config(store).model_copy(update={"output": RunConfig(dir="x" * 300)})
    with pytest.raises(InputError, match=r"x{20}.*no name that a file can have; give a shorter path"):
        check_run(long)


def test_a_store_that_is_not_complete_is_refused(store: Path) -> None:
    (store / "index.json").unlink()
    with pytest.raises(InputError, match="has not finished"):
        check_run(config(store))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 64}, "train.batch=64: more than the 32 pairs of the store; lower it"),
        ({"warmup": 300}, "train.warmup=300: longer than train.steps=200; lower it"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(store: Path, changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        check_run(config(store, **changes))
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("workers", "accumulate", "sentence"),
    [
        (3, 1, "train.batch=16: not divisible by 3 workers; use 15"),
        ((2, 3), 1, "train.batch=16: not divisible by 3 workers; use 12"),
        (1, 3, "train.batch=16: not divisible by 1 workers with train.accumulate=3; use 15"),
        ((2, 1), 1, "cluster.workers=[2, 1]: give the least number first"),
    ],
)
def test_a_batch_that_the_workers_cannot_share_is_refused(
    store: Path, workers: int | tuple[int, int], accumulate: int, sentence: str
) -> None:
    settings = config(store, accumulate=accumulate)
    cluster = settings.cluster.model_copy(update={"workers": workers})
    with pytest.raises(InputError) as error:
        check_run(settings.model_copy(update={"cluster": cluster}))
    assert str(error.value) == sentence


def test_the_same_run_may_go_on_and_another_one_may_not(store: Path) -> None:
    settings, _ = check_run(config(store))
    run = prepare_run(settings)
    again, _ = check_run(config(store, log_every=7, accumulate=2, compile=True))  # changes nothing about the weights
    assert again.pairs.fingerprint == settings.pairs.fingerprint
    assert load(TrainConfig, run.config) == settings
    assert check_run(config(store, lr=0.1))[0].train.lr == 0.1  # nothing has come of the run
    run.metrics.write_text("{}\n")
    with pytest.raises(InputError, match=r"holds a run of another config; train.lr \(0.001 there, 0.1 here\)"):
        check_run(config(store, lr=0.1))


def test_other_pairs_under_the_same_path_are_refused(store: Path, tmp_path: Path) -> None:
    prepare_run(check_run(config(store))[0]).metrics.write_text("{}\n")
    store.rename(tmp_path / "before")
    x = np.ones((32, 4), np.float32)
    write_store(store, x, x)
    with pytest.raises(InputError, match=r"holds a run of another config; pairs\.fingerprint"):
        check_run(config(store))


def test_a_directory_with_other_things_is_refused(store: Path) -> None:
    (store.parent / "run").mkdir()
    (store.parent / "run" / "thesis.tex").touch()
    for text in (None, "coupling: {n: 4}\n"):  # a pair store's
        if text is not None:
            (store.parent / "run" / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="not empty and not a training run"):
            check_run(config(store))


def test_unknown_and_malformed_settings_of_evaluate_are_refused() -> None:
    assert from_overrides(EvaluateConfig, ["samples=64", "euler=[1,2]"]) == EvaluateConfig(samples=64, euler=(1, 2))
    with pytest.raises(InputError, match=r"steps=4: unknown key"):
        from_overrides(EvaluateConfig, ["steps=4"])
    with pytest.raises(InputError, match=r"override 'samples': not of the form key=value"):
        from_overrides(EvaluateConfig, ["samples"])

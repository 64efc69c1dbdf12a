"""Configuration: what is wrong is told in one sentence that names the key, the value and the remedy."""

from pathlib import Path

import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, differing, digest, load, save

GOOD = """
data: {path: digits, label: label}
coupling: {method: sinkhorn, n: 512, rel_eps: 1e-1, tol: 1.0e-3}
output: {dir: out, pairs: 1024}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "couple.yaml"
    path.write_text(GOOD)
    return path


def test_overrides_win(config: Path) -> None:
    loaded = load(CoupleConfig, config, ["coupling.n=64", "output.dir=elsewhere", "features.pca=8"])
    assert (loaded.coupling.n, loaded.output.dir, loaded.features.pca) == (64, "elsewhere", 8)


def test_the_default_epsilon_stands_in_the_resolved_config(config: Path) -> None:
    config.write_text(GOOD.replace("rel_eps: 1e-1, ", ""))
    assert load(CoupleConfig, config).coupling.rel_eps == 0.1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("coupling.epsilon=0.1", "coupling.epsilon=0.1: unknown key; known here: backend, beta, chi2, condition"),
        ("colour=red", "colour='red': unknown key; known here: cluster, coupling, data"),
        ("coupling.n=many", "coupling.n='many': input should be a valid integer"),
        ("coupling.n=0", "coupling.n=0: input should be greater than or equal to 1"),
        ("coupling.rel_eps=-1", "coupling.rel_eps=-1: input should be greater than or equal to 0"),
        (
            "coupling.method=magic",
            "coupling.method='magic': input should be 'independent', 'exact', 'sinkhorn', 'semidiscrete' or 'imported'",
        ),
        ("coupling.eps=0.5", "coupling: rel_eps and eps given; keep one of"),
        ("coupling.method=exact", "coupling: rel_eps belong to method sinkhorn, not to exact"),
        ("cluster.actors=few", "cluster.actors='few': input should be"),
        ("--n=3", "override '--n=3': not of the form key.sub=value"),
        ("n", "override 'n': not of the form key.sub=value"),
        ("output.pairs=null", "output.pairs=None: input should be a valid integer"),
    ],
)
def test_bad_values_are_named(config: Path, override: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(CoupleConfig, config, [override])
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {path: digits}\ncoupling: {n: 5}", "output: missing"),
        ("- a\n- b", "not a YAML mapping"),
        ("data: [unclosed", "cannot be read as YAML"),
        ("data: 1\ndata: 2", "cannot be read as YAML"),
        ("", "data: missing"),
    ],
)
def test_bad_files_are_named(config: Path, text: str, says: str) -> None:
    config.write_text(text)
    with pytest.raises(InputError, match=says):
        load(CoupleConfig, config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(CoupleConfig, tmp_path / "nothing.yaml")


def test_the_hash_covers_what_determines_the_pairs_and_nothing_else(config: Path) -> None:
    base = load(CoupleConfig, config).determining()
    same = ["output.dir=x", "cluster.actors=7", "data.path=elsewhere.npz", "coupling.on_unconverged=record"]
    same += ["coupling.backend=auto", "output.payload=full"]
    other = ["coupling.n=511", "source.seed=1", "output.pairs=1023", "features.pca=3", "sampling.draw=balanced"]
    other += ["coupling.backend=torch", "coupling.chi2=0.1", "sampling.direction=backward"]
    for item in same:
        assert digest(load(CoupleConfig, config, [item]).determining()) == digest(base)
    for item in other:
        changed = load(CoupleConfig, config, [item]).determining()
        assert digest(changed) != digest(base)
        assert len(differing(changed, base)) == 1


def test_a_resolved_config_reads_back(config: Path, tmp_path: Path) -> None:
    loaded = load(CoupleConfig, config)
    save(loaded, tmp_path / "resolved.yaml", "remark")
    assert load(CoupleConfig, tmp_path / "resolved.yaml") == loaded

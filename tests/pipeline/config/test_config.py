"""Configuration: what is wrong is told in one sentence that names the key, the value and the remedy."""

from pathlib import Path

import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, differing, digest, load, save
from flowpairs.pipeline.config.data import GaussianSource
from flowpairs.training.config import PathConfig, TimesConfig, TrainConfig, UNetConfig, VelocityConfig

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


def test_an_empty_override_is_null(config: Path) -> None:
    config.write_text(GOOD + "features: {pca: 3}\n")
    assert load(CoupleConfig, config, ["features.pca=", "data.label=null"]).features.pca is None


def test_an_override_of_one_of_several_alternatives_takes_their_place(config: Path) -> None:
    for key in ("rel_eps", "eps", "sharpness"):
        coupling = load(CoupleConfig, config, [f"coupling.{key}=0.25"]).coupling
        given = {name: getattr(coupling, name) for name in ("rel_eps", "eps", "sharpness")}
        assert given == {"rel_eps": None, "eps": None, "sharpness": None, key: 0.25}
    assert load(CoupleConfig, config, ["coupling.sharpness=null"]).coupling.rel_eps == 0.1
    with pytest.raises(InputError, match="coupling: rel_eps and eps given"):
        load(CoupleConfig, config, ["coupling.eps=0.5", "coupling.rel_eps=0.5"])


TRAIN = """
pairs: {dir: out}
model: {kind: mlp, width: 64, conditional: true}
path: {kind: sb, sigma: 2}
times: {kind: logit-normal, mean: 1}
objective: {kind: meanflow, spans: 0.5}
train: {steps: 1}
output: {dir: run}
"""


def test_an_override_of_a_kind_drops_what_belongs_to_the_other(config: Path) -> None:
    config.write_text(GOOD + "source: {kind: data, path: digits, column: image, seed: 3}\n")
    assert load(CoupleConfig, config, ["source.kind=gaussian"]).source == GaussianSource(kind="gaussian", seed=3)
    assert load(CoupleConfig, config, ["source.kind=data"]).source == load(CoupleConfig, config).source
    with pytest.raises(InputError, match=r"source\.path='x': unknown key"):
        load(CoupleConfig, config, ["source.kind=gaussian", "source.path=x"])
    config.write_text(TRAIN)
    kinds = ["model.kind=unet", "path.kind=cfm", "times.kind=uniform", "objective={kind: velocity}"]
    changed = load(TrainConfig, config, kinds)
    assert changed.model == UNetConfig(kind="unet", conditional=True)
    assert (changed.path, changed.times) == (PathConfig(), TimesConfig())
    assert changed.objective == VelocityConfig()
    assert load(TrainConfig, config, ["path.kind=sb", "times.std=2"]).path.sigma == 2


def test_the_default_epsilon_stands_in_the_resolved_config(config: Path) -> None:
    config.write_text(GOOD.replace("rel_eps: 1e-1, ", ""))
    assert load(CoupleConfig, config).coupling.rel_eps == 0.1


@pytest.mark.parametrize(("recouple", "rel_eps"), [("true", 0.1), ("1", 0.1), ("1.0", 0.1), ("0", None), ("x", None)])
def test_samples_of_a_flow_that_are_coupled_anew_have_an_epsilon(
    config: Path, recouple: str, rel_eps: float | None
) -> None:
    config.write_text(GOOD.replace("rel_eps: 1e-1, ", ""))
    asked = ["coupling={n: 8, method: reflow, run: runs/digits}", f"coupling.recouple={recouple}"]
    if recouple == "x":
        with pytest.raises(InputError, match=r"coupling\.recouple='x'"):
            load(CoupleConfig, config, asked)
    else:
        assert load(CoupleConfig, config, asked).coupling.rel_eps == rel_eps


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("coupling.epsilon=0.1", "coupling.epsilon=0.1: unknown key; did you mean eps or regions or steps?"),
        ("coupling.methd=exact", "coupling.methd='exact': unknown key; did you mean method"),
        ("coupling.q=1", "coupling.q=1: unknown key; known here: atol, backend, batch, beta, chi2, condition"),
        ("output.pair=9", "output.pair=9: unknown key; known here: pairs, dir, pairs_per_shard, payload"),
        ("colour=red", "colour='red': unknown key; known here: "),
        ("source.kind=gauss", "source={'kind': 'gauss'}: input tag 'gauss'"),
        ("coupling.n=many", "coupling.n='many': input should be a valid integer"),
        ("coupling.n=0", "coupling.n=0: input should be greater than or equal to 1"),
        ("coupling.rel_eps=-1", "coupling.rel_eps=-1: input should be greater than or equal to 0"),
        (
            "coupling.method=magic",
            "coupling.method='magic': input should be 'independent', 'exact', 'sinkhorn', 'semidiscrete', 'imported'",
        ),
        ("coupling.n=6:00", "coupling.n='6:00': input should be a valid integer"),
        ("data.path=*x", "override 'data.path=*x': cannot be read (aliases are not read; write the value out"),
        ("coupling..n=3", "override 'coupling..n=3': not of the form key.sub=value"),
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
        ("data: 1\ndata: 2", r"cannot be read as YAML \(key 'data' is given twice; keep one .* line 2"),
        (GOOD.replace("n: 512", "n: 6:00"), "coupling.n='6:00': input should be a valid integer"),
        (GOOD.replace("rel_eps: 1e-1", "eps: 1, sharpness: 0.1"), "coupling: eps and sharpness given; keep one of"),
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
    config.write_text(GOOD.replace("pairs: 1024", "pairs: 1024, payload: full"))
    base = load(CoupleConfig, config).determining()
    same = ["output.dir=x", "cluster.actors=7", "data.path=elsewhere.npz", "coupling.on_unconverged=record"]
    same += ["coupling.backend=auto", "data.on_bad=refuse"]
    other = ["coupling.n=511", "source.seed=1", "output.pairs=1023", "features.pca=3", "sampling.draw=balanced"]
    other += ["coupling.backend=torch", "coupling.tol=0.01", "sampling.direction=backward", "output.payload=ids"]
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

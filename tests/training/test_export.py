"""Exports are used as their cards say, in a process that cannot import this project, and answer as it does."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.runs import DIT, MEANFLOW, MLP, SF2M, UNET, write_run
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import SamplerConfig
from flowpairs.training.export.write import export
from flowpairs.training.run.trained import read_trained
from flowpairs.training.sampling.flow import Flow
from flowpairs.training.sampling.sampler import Sampler

IMAGE = (1, 8, 8)
LABELS: dict[str, Any] = {"classes": 3, "dropout": 0.1}
RUNS: dict[str, tuple[dict[str, Any], tuple[int, ...], dict[str, Any]]] = {
    "unet": (UNET, IMAGE, {}),
    "unet-labels": (UNET, IMAGE, LABELS),
    "unet-sf2m": (UNET, IMAGE, SF2M),
    "unet-meanflow": (UNET, IMAGE, MEANFLOW | LABELS),
    "mlp": (MLP, (5,), {}),
    "mlp-sf2m": (MLP, (2,), SF2M | LABELS),
    "mlp-meanflow": (MLP, (2,), MEANFLOW),
    "mlp-two-sided": (MLP, (2,), {"two_sided": True}),
    "dit": (DIT, IMAGE, {}),
    "dit-labels": (DIT, IMAGE, LABELS),
}

# Runs each card's code in its directory, then asks the functions that it defines.
STRANGER = """
import os, re, sys
for name in ("pipeline", "training", "jobs"):
    sys.modules[name] = None  # importing it raises
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(1)
for directory in sys.argv[1:]:
    os.chdir(directory)
    sys.path[0] = directory
    sys.modules.pop("model", None)
    names = {}
    for code in re.findall(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL):
        exec(compile(code, directory, "exec"), names)
        names.setdefault("ode", names["x"])
    asked = torch.load("../asked/" + os.path.basename(directory) + ".pt")
    t, x, label, until = (asked[key] for key in ("t", "x", "label", "until"))
    given = (t, x) if label is None else (t, x, label)
    answers = {"ode": names["ode"]}
    with torch.no_grad():
        if "average_velocity" in names:
            answers["average"] = names["average_velocity"](*given, until)
        else:
            answers["v"] = names["v"](*given)
        if "r" in names:
            answers["r"] = names["r"](*given)
    torch.save(answers, "../asked/" + os.path.basename(directory) + ".pt")
"""


def questions(shape: tuple[int, ...], classes: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    t, x = torch.rand(5, generator=generator), torch.randn(5, *shape, generator=generator)
    return {"t": t, "x": x, "label": torch.arange(5) % classes if classes else None, "until": (t + 1) / 2}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of RUNS exported beside each other, and used by a stranger."""
    root = tmp_path_factory.mktemp("exports")
    (root / "asked").mkdir()
    for name, (model, shape, changes) in RUNS.items():
        write_run(root / "runs" / name, model, shape, **changes)
        export(root / "runs" / name, root / name, "apache-2.0")
        torch.save(questions(shape, changes.get("classes", 0)), root / "asked" / f"{name}.pt")
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", STRANGER, *(str(root / name) for name in RUNS)]
    subprocess.run(command, check=True, timeout=200)
    return root


@pytest.mark.parametrize("name", RUNS)
def test_an_export_answers_as_the_project_does(exports: Path, name: str) -> None:
    shape, changes = RUNS[name][1:]
    trained = read_trained(exports / "runs" / name)
    answers, asked = torch.load(exports / "asked" / f"{name}.pt"), questions(shape, trained.num_classes)
    network, t, x, label = trained.network(torch.device("cpu")), asked["t"], asked["x"], asked["label"]
    assert t is not None
    assert x is not None
    with torch.no_grad():
        if "average" in answers:
            torch.testing.assert_close(answers["average"], network(t, x, label, asked["until"]))
        else:
            flow = Flow(network, trained.config, label, trained.num_classes)
            torch.testing.assert_close(answers["v"], flow.velocity(t, x))
        assert ("r" in answers) == ("path" in changes)
        if "r" in answers:
            torch.testing.assert_close(answers["r"], network(t, x, label)[1])
    if not trained.config.model.conditional:  # whose labels the card takes in turn
        noise = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
        start = torch.zeros(64, *shape) if trained.two_sided else noise  # what the card starts from
        sampler = Sampler(trained, SamplerConfig(samples=64), None, torch.device("cpu"), start)
        ours = sampler.samples("jump", 4) if "average" in answers else sampler.samples("euler", 16)
        torch.testing.assert_close(answers["ode"], ours[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_card_says_what_hugging_face_reads_and_its_code_is_short(exports: Path, name: str) -> None:
    text = (exports / name / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert "flow-matching" in front["tags"]
    layout = {"config.json", "diffusion_pytorch_model.safetensors"}
    assert (front.get("library_name") == "diffusers") == (layout <= {path.name for path in (exports / name).rglob("*")})
    assert (front.get("pipeline_tag") is not None) == (RUNS[name][1] == IMAGE and "classes" not in RUNS[name][2])
    first, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15
    [settings] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(settings)["model"]["kind"] == RUNS[name][0]["kind"]
    assert "gone" not in text  # where the pairs lay is nobody's concern
    assert "Not evaluated" in text


def test_an_export_is_whole_or_not_there(tmp_path: Path) -> None:
    write_run(tmp_path / "run", MLP, (2,))
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for place, sentence in [("held", "not empty and not an export"), ("file", "a file is in the way")]:
        with pytest.raises(InputError, match=sentence):
            export(tmp_path / "run", tmp_path / place, "mit")
    with pytest.raises(InputError, match="as in apache-2"):
        export(tmp_path / "run", tmp_path / "out", "Apache 2\nx: y")
    with pytest.raises(InputError, match="not a training run"):
        export(tmp_path / "held", tmp_path / "out", "mit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "held", "run"]


def test_an_export_is_brought_up_to_date_but_not_mixed_with_another(tmp_path: Path) -> None:
    write_run(tmp_path / "run", MLP, (2,))
    export(tmp_path / "run", tmp_path / "out", "mit")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "run" / "evaluation.json").write_text(
        json.dumps({
            "samples": 500, "seed": 0, "features": "2 components", "curvature": 0.25,
            "frechet": [{"solver": "euler", "nfe": 4, "fd": 1.234}],
        })
    )  # fmt: skip
    export(tmp_path / "run", tmp_path / "out", "mit")
    second = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"README.md"}
    assert "| euler | 4 | 1.234 |" in second["README.md"].decode()
    older = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    reference = {"data": "/here/train", "split": "train", "held_out": True, "mirrored": False, "count": 9000}
    named = {"reference": reference | {"sha256": "0123456789abcdef"}, "batch": 256, "rtol": 1e-5, "atol": 1e-4}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(older | named))
    export(tmp_path / "run", tmp_path / "out", "mit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "500 samples to 9,000 held-out data (split train; sha256 0123456789ab) on 2 components" in card
    assert "dopri5 chose its steps for batches of 256 at rtol 1e-05 and atol 0.0001" in card
    assert "/here" not in card
    write_run(tmp_path / "other", MLP, (2,), train={"steps": 10, "seed": 1})
    with pytest.raises(InputError, match="an export of other weights"):
        export(tmp_path / "other", tmp_path / "out", "mit")


def test_the_card_tells_how_the_pairs_were_coupled(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"block": block, "method": "sinkhorn", "n": 4096, "m": 4096, "eps": 0.5, "rel_eps": 0.1, "sharpness": level,
         "partners": 2.0, "source_error": 0.0, "target_error": 0.0, "cost_independent": 2.0, "cost_coupled": 1.0,
         "passes": 3, "converged": True, "seconds": 1.0}
        for block, level in enumerate([0.2, 0.3, 0.9])
    ]  # fmt: skip
    (tmp_path / "store").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "store" / "blocks.parquet")
    write_run(tmp_path / "run", MLP, (2,), pairs=str(tmp_path / "store"), method="sinkhorn")
    export(tmp_path / "run", tmp_path / "out", "mit")
    told = "method sinkhorn, blocks of 4,096 x 4,096, eps 0.5, relative eps 0.1, sharpness E 0.3"
    assert told in (tmp_path / "out" / "README.md").read_text()

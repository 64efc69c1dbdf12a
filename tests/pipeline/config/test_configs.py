"""Every config that ships is one, and says what it costs; the documented way to its data gives data that it reads."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.datasets import read_data

from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline import data
from flowpairs.pipeline.config import CoupleConfig, DataConfig, load
from flowpairs.training.config import EvaluateConfig, TrainConfig

PROJECT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(path for path in (PROJECT / "configs").glob("*/*.yaml") if path.parent.name != "kuberay")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_loads_and_says_what_it_costs(path: Path) -> None:
    kinds = {"train": TrainConfig, "stream": StreamConfig, "evaluate": EvaluateConfig, "guided": TrainConfig}
    load(kinds.get(path.stem, CoupleConfig), path)
    comment = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"not measured|seconds|minute|hours", comment.lower())


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem == "train"], ids=lambda path: path.parent.name)
def test_it_trains_on_what_the_coupling_beside_it_writes(path: Path) -> None:
    assert load(TrainConfig, path).pairs.dir == load(CoupleConfig, path.with_name("couple.yaml")).output.dir


def test_the_data_page_names_every_config() -> None:
    named = set(re.findall(r"`configs/([\w-]+)`", (PROJECT / "docs" / "data.md").read_text()))
    assert named == {path.parent.name for path in CONFIGS}


def test_images_shrunk_as_the_data_page_says_are_read(tmp_path: Path) -> None:
    script, encode = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "data.md").read_text(), re.DOTALL)
    compile(encode, "encode.py", "exec")  # which needs a GPU
    (tmp_path / "shrink.py").write_text(script)
    for label, shape in enumerate([(48, 40, 3), (70, 70, 3)]):
        folder = tmp_path / "train" / f"n{label}"
        folder.mkdir(parents=True)
        for value in (0, 255):
            Image.fromarray(np.full(shape, value, np.uint8)).save(folder / f"{value}.jpeg")
    arguments = ["shrink.py", "train", "small", "32"]
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, timeout=60)
    config = DataConfig(path=str(tmp_path / "small"), label="label")
    target = read_data(config, data.check_data(config))
    assert target.x.shape == (4, 3, 32, 32)
    assert target.x.mean((1, 2, 3)).tolist() == [-1, 1, -1, 1]
    assert target.labels.tolist() == [0, 0, 1, 1]

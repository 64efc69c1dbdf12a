"""Nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

HELP = "from flowpairs.jobs.cli import application; application()"
DRIVER = """
import flowpairs.pipeline.cluster.actors, flowpairs.pipeline.couple
from flowpairs.pipeline import data
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.rows.make import read_small
config = DataConfig(path="digits")
read_small(config, data.check_data(config))
"""


@pytest.mark.parametrize(
    ("program", "light", "heavy"),
    [
        (HELP, ["typer"], ["numpy", "pydantic", "yaml", "fsspec", "pyarrow", "ray", "torch"]),
        (DRIVER, ["ray", "numpy"], ["torch", "scipy", "sklearn", "pandas", "ray.data", "ray.train"]),
        ("import flowpairs.pipeline.solve.draw", ["torch"], ["scipy", "ot", "pykeops", "sklearn", "ray"]),
    ],
    ids=["the commands' help", "the driver of a coupling of digits", "an actor's solver"],
)
def test_heavy_modules_wait_until_they_are_needed(program: str, light: list[str], heavy: list[str]) -> None:
    program += f"\nimport sys\nprint(*({set(light + heavy)} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert set(out.stdout.split()) == set(light)

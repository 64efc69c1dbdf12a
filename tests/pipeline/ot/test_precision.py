"""Products keep float32's precision, and a user's cost sees bounded tiles, whatever the process or the device."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flowpairs.pipeline.ot.costs.cost import COLUMNS, ROWS, tile
from flowpairs.pipeline.ot.tiles.precision import ieee_products
from flowpairs.pipeline.ot.tiles.tiling import Workers

MATMUL = torch.backends.cuda.matmul
STATE = """
import torch
from flowpairs.pipeline.ot.tiles.tiling import Workers
matmul = torch.backends.cuda.matmul
with Workers(torch.device("cpu")):
    print(matmul.fp32_precision, matmul.allow_tf32)
print(matmul.fp32_precision)
"""


def settings() -> tuple[str, str, str]:
    return (
        torch.get_float32_matmul_precision(),
        MATMUL.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
    )


@pytest.fixture(params=["highest", "high", "medium"])
def asked(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")
    MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_products_are_exact_under_every_setting_which_comes_back(asked: str) -> None:
    before = settings()
    assert before[0] == asked
    with Workers(torch.device("cpu")), Workers(torch.device("cpu")):
        assert settings() == ("highest", "ieee", "ieee")
        assert MATMUL.allow_tf32 is False  # torch raises here where the two settings do not agree
    assert settings() == before


def test_scopes_of_several_threads_end_with_the_last(asked: str) -> None:
    before, first, second = settings(), ieee_products(), ieee_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings()[1] == "ieee"
    second.__exit__(None, None, None)
    assert settings() == before


def test_settings_come_back_from_an_error(asked: str) -> None:
    before = settings()
    with pytest.raises(KeyError), Workers(torch.device("cpu")):
        raise KeyError
    assert settings() == before


def test_an_image_that_sets_the_variable_gets_exact_products() -> None:
    told = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    found = subprocess.run([sys.executable, "-c", STATE], env=told, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["ieee", "False", "tf32"]


def test_a_cost_sees_bounded_rows_and_columns() -> None:
    seen = list[tuple[int, int]]()

    def cost(x: Tensor, y: Tensor) -> Tensor:
        seen.append((len(x), len(y)))
        return (x[:, None] - y[None]).abs().sum(-1)

    x, y = torch.randn(2 * ROWS + 3, 2), torch.randn(COLUMNS + 5, 2)
    torch.testing.assert_close(
        tile(cost, x, y).double(), torch.cdist(x.double(), y.double(), p=1), rtol=1e-5, atol=1e-6
    )
    assert max(rows for rows, _ in seen) == ROWS
    assert max(columns for _, columns in seen) == COLUMNS
